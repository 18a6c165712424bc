// Package source gives ffmpeg a source to read: the parts an upload consists
// of, each an object, become one file, and a loopback HTTP server answers
// ranges of it. ffmpeg has no other network (see package confine); regions fail over beneath it.
//
// Invariants
//
//   - Memory is bounded per file: a fixed number of blocks. A block is fetched
//     once however many wait for it; sequential readers find the next block on
//     its way.
//   - Of a source whose upload is under way, bytes that have not arrived are waited
//     for, for a bounded time; MissingError then says how many are wanted.
//   - The server listens on 127.0.0.1 only, on any free port, perhaps in a network
//     namespace that only children are in, and each file has
//     an unguessable path that ends with it.
//   - A failed fetch breaks the connection, so that ffmpeg cannot mistake it for
//     the end of the file, and File.Err keeps the reason, so that the worker
//     cannot mistake it for a broken source.
package source
