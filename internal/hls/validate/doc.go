// Package validate reads published HLS as a player would, every playlist and
// every segment, and names what breaks RFC 8216bis or the promises of this
// platform: segments that join without gap on one timeline, keyframes first,
// true codecs, resolutions and bandwidths, renditions cut at the same times, and
// playlists that only ever grow.
//
// What can't be read is a problem like any other; only a first playlist that
// can't be read is an error. Everything read is bounded.
package validate
