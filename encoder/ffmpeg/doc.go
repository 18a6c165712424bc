// Package ffmpeg runs ffmpeg and ffprobe as bounded children and knows the
// arguments of every job the platform gives them.
//
// Invariants
//
//   - A child reads nothing but its worker's loopback server (protocol
//     whitelist) and only containers on the demuxer whitelist; what it makes
//     leaves through pipes, or is in its own directory. Where a Launcher starts
//     it, this holds also for a child that a file has taken over.
//   - A child is niced and limited in memory and file size, has a wall-clock and
//     a no-progress deadline, and dies, with everything it started, within a
//     second of its context and with its parent.
//   - Frames are chosen by presentation time in the source's own time base,
//     never by count, and keep their exact times.
//
// A failed child gives *Error with the tail of its log; Reason says whether it
// failed by itself or was ended, and why.
package ffmpeg
