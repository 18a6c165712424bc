// Package origin reads immutable objects from one of several origins and goes on
// from another, at the same byte, when one fails, falls silent or drips.
//
// Invariants
//
//   - A body is of one representation: an origin whose size or ETag differs from
//     the first one's is not read on from.
//   - An origin that doesn't answer in the time it mostly takes (the 95th
//     percentile of its last answers) is raced by the next one, as far as a budget
//     of a twentieth of all fetches allows ("The Tail at Scale", Dean and Barroso,
//     CACM 2013). Who is late is still waited for, so that its times stay true.
//   - Origins that fail three times in a row are left out for a second, then tried
//     with one request (circuit breaker). Bodies that break count as failures.
//   - Whose bytes turned out wrong, or broke off, isn't asked for that object for
//     a minute where others can be.
//   - Every attempt has a deadline; Close waits for those that lost.
package origin
