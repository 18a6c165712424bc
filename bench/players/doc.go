// Command players measures how stock players, and ours, get over the loss of the
// region they play from.
//
// It runs an isolated platform of its own (root), uploads a film and plays it at
// European addresses, a few players at a time: in Chromium hls.js, Shaka, Video.js
// and our own page, on their own mpv, ffplay and GStreamer. Those that follow HLS
// content steering get the steering form as well as the plain one. In the middle
// of the film the region that serves is killed, hung or silenced, or two are
// killed in turn.
//
// A stall is half a second or more without progress after the loss, with nothing
// in hand where the player tells; with something, it was frozen for want of
// processors. What was skipped is what the position gained on the clock. When a player moved is read
// off the packets at its place, so that it is the same for all. Moments in which
// this program itself stood still count for nobody and are reported.
package main
