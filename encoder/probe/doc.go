// Package probe finds out what a source is: its streams, their exact time
// bases, its display geometry, and the frame index, which is the presentation
// time of every video frame in the source's own time base.
//
// The index is what makes parallel encoding exact: chunks are slices of it, and
// what a chunk produced is compared with its slice. For MP4 and QuickTime it is
// read from the sample tables, without touching the media; elsewhere from the
// packets. A container whose seeking can't be trusted (MPEG-TS, FLV, AVI,
// fragmented MP4, Matroska without cues) is reported as needing a remux first.
//
// What can't be encoded gives *InputError with a code for programs and a
// sentence for people; such a source is never tried again. Every other error is
// transient or ours.
package probe
