// Package cache keeps immutable objects in memory over an append-only disk log.
//
// Invariants
//
//   - One fill per key, however many ask: the first starts it, all read the bytes
//     while they arrive and are woken by them. A reader that leaves changes
//     nothing for the others; a fill has a deadline of its own.
//   - Nobody ever reads a whole object that isn't what was written: the last
//     block is handed out only after length and SHA-256 are right. Disk blocks
//     are checked, by sums of their own, before they are handed out; a damaged one
//     is replaced, in mid-object, by the origin's bytes.
//   - An object that was read from disk once, all of it, since the log was opened may
//     be left there and sent from its file by the kernel, without another look at what
//     the kernel has in its memory. Its file stays open until the last reader has
//     released it, and is never cut off.
//   - Memory is bounded: objects in memory, those arriving and what is known of those
//     on disk alone included, never hold more than the configured bytes (s3fifo
//     decides who leaves), and the log never holds more than its own. Bodies that left
//     the cache live on only as long as a reader has them.
//   - What is asked for once isn't written to disk.
//   - Opening after a stop, or after a SIGKILL, finds every object whose record
//     reached the log.
//
// When the disk fails the cache goes on in memory, Disk says why, and the writer
// looks again after pauses that double: it reads the log anew, removes what was
// dropped meanwhile and goes on with the rest. A full disk hasn't failed while the
// log has something to give up.
package cache
