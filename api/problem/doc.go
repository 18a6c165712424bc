// Package problem is the API's one form of error: RFC 9457 problem details with
// a stable code that programs can act on and a detail that tells people what to
// change.
//
// Invariants
//
//   - Every code is in Kinds, with the status it always has and a text that
//     documents it; the API serves them under /problems/.
//   - Details are written for the caller. An error without a mapping becomes
//     "internal" and its text stays in the log.
package problem
