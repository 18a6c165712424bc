// Package cmcd reads what players say about themselves with their requests:
// Common Media Client Data, CTA-5004, version 1, and the same keys of version 2.
//
// Players send a dictionary (RFC 8941 section 3.2) percent-encoded in the query
// argument CMCD, or split by key over the fields CMCD-Request, CMCD-Object,
// CMCD-Status and CMCD-Session.
//
// Invariants
//
//   - Nothing is allocated and nothing of the input is kept: a Report holds numbers.
//   - Input is bounded: MaxBytes after decoding, MaxKeys keys.
//   - A dictionary that breaks the grammar anywhere gives an error and no report.
//     Keys that aren't read here must keep to the grammar, and may say anything.
package cmcd
