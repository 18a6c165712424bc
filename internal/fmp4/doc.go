// Package fmp4 turns what ffmpeg writes into the segments that are published:
// fragmented MP4 video into one CMAF segment per keyframe, ADTS audio into
// segments on the 1024-sample grid, each with its initialisation segment. Its
// Reader also reads published segments back.
//
// Invariants
//
//   - ffmpeg's own timestamps decide nothing but the order and identity of
//     frames. Decode times are written anew: the i-th frame in decode order has
//     the i-th presentation time of its segment as decode time. So a segment
//     starts exactly where the one before it ended, across chunks made by
//     different processes, also with a variable frame rate.
//   - An initialisation segment depends only on codec parameters, so all chunks
//     of a rendition have the same one.
//
// Every reader bounds what it holds; broken input is an error, never a panic.
package fmp4
