// Package api is the HTTP API of a region (`meridian api`): API keys, assets,
// resumable uploads, playback tokens and server-sent events. The process also
// keeps the control plane moving: it migrates the catalog, publishes the outbox,
// dispatches work, sweeps up and repairs the region's object store.
//
// Invariants
//
//   - Every error is RFC 9457 problem details with a documented code
//     (api/problem); internals stay in the log.
//   - Every request under /v1 is authenticated; an owner sees and changes its own
//     things alone, others' look like missing ones.
//   - Bodies, listings, streams and uploads under way are bounded.
//   - openapi.yaml describes all routes; a test holds it against the routes and
//     against real answers.
//
// Failure. Everything it needs may be away when it starts, in any order; Ready
// says what is missing. Without a PostgreSQL leader requests get 503 with
// Retry-After, and uploads go on later where they stood. On shutdown uploads and
// event streams are ended first, keeping what they have, so that clients go on
// elsewhere at once.
package api
