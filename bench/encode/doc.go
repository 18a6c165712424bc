// Command encode compares the encoding pipeline with bare ffmpeg: the same
// source, ladder, threads and segment grid, alternately in one run. Per-title
// encoding is off, so that both have the profile's own ladder. The pipeline
// is the real one: `meridian encoder` as a process of its own, fed through
// PostgreSQL, NATS JetStream and MinIO, from the received upload to `ready`.
// Bare ffmpeg is one process that decodes once and writes HLS with fragmented
// MP4 to local files.
//
// It prints the ratio of throughputs, of CPU times, and where the pipeline's
// time went. With -playable it prints instead how soon long videos can be watched
// and how far the encode keeps ahead of a viewer; with -lines, too, how soon after
// their last byte, in several containers, begun while they were uploaded or not.
package main
