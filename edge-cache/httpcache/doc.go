// Package httpcache is a shared HTTP cache in front of any origin: RFC 9111 with
// RFC 9110's conditional and range requests, RFC 5861 (stale while revalidating,
// stale on error), RFC 9211 (Cache-Status), RFC 9213 (CDN-Cache-Control), and
// purging by Surrogate-Key.
//
// Bodies lie in package cache, in memory over the disk log, as those of video do;
// the index of responses, with their header fields and Vary, is kept here.
//
// Invariants
//
//   - A response is reused only where RFC 9111 section 4 lets it be. Without
//     explicit freshness and with heuristics off it is validated each time.
//   - One request goes to the origin for all who ask for the same at once; they
//     read the body while it arrives. What turns out not to be shareable is not
//     shared, and its key isn't waited for again for a while.
//   - A body that broke off is never stored, and its readers' connections end.
//   - Index and arriving bodies are bounded; what doesn't fit is passed through.
package httpcache
