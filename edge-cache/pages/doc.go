// Package pages keeps copies of the bodies asked for most in memory files, whose
// pages the kernel puts into sockets without copying them (sendfile).
//
// A Window has room for some copies. A body gets one when it is asked for again:
// a goroutine makes it, and until then, or when there is no room, the body itself
// is written. Room is made by dropping copies of which there are few hits beside those
// of the body: making one costs as much as some hits save.
//
// Invariants
//
//   - A copy never changes. Its file is closed when nobody holds it any more; the
//     kernel keeps pages that are still in sockets.
//   - Copies hold at most the capacity, and are at most maxCopies, but for those
//     that were dropped and are still being sent.
//   - What can't be copied is no failure: Get returns nil.
package pages
