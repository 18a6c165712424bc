// Package plan decides, once per run, everything that fixes its output: the
// timeline, the ladder, the segment grid and the chunks, with the encoder's
// parameters. It is a pure function of what the probe found, what windows of the
// source took, the profile and a prediction of speed; the tasks that follow only carry it out, so that an
// attempt on another machine gives the same frames on the same timeline.
//
// Time 0 of the timeline is the first video frame, or the container's start
// where there is no video. A segment starts at the first frame at or after each
// multiple of the segment length; a chunk is a whole number of segments.
package plan
