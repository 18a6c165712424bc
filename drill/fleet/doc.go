// Package fleet is viewers by the hundred, without browsers: each opens a video
// from an address of its own, follows playlists, steering and redirects, keeps a
// buffer in media time, picks rungs by throughput, and fails over as our player
// does. Bytes are counted, compared and thrown away.
//
// What a viewer does is what our player was measured to do (hls.js with the
// timeouts, penalties and steering of web/src): one that behaves worse would
// blame the platform for its own stalls, one that behaves better would hide them.
//
// A viewer is two goroutines, one that plays and one that is steered, and at
// most a few connections; what it remembers is bounded by the playlists of one
// video. Events and samples of the whole fleet go to one Recorder, which is
// bounded and counts what it had to drop.
//
// Watch asks routers where they would send a viewer, and keeps their answers.
package fleet
