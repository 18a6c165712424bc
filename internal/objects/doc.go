// Package objects is the platform's object storage: one S3 bucket per region,
// objects written once, each acknowledged by two regions before it counts.
//
// Invariants
//
//   - A key is written once and never changes. Every PUT carries
//     If-None-Match: * and the object's SHA-256; finding the same bytes already
//     there is success, finding other bytes is ErrConflict.
//   - Put returns only when as many regions as Table.Copies (or the placement)
//     asks for have acknowledged. Otherwise it returns ErrTooFewRegions, and
//     nothing may be told to anyone.
//   - A read asks the own region first and then the others by round-trip time;
//     because objects never change, a read that breaks off in mid-body goes on
//     in the next region at the same byte.
//
// A region that fails repeatedly is skipped for a moment (circuit breaker), so
// that a hung store costs one deadline and not one per read.
package objects
