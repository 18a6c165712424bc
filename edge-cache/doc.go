// Package edgecache is the edge: an HTTP cache and HLS composer over the
// regions' object stores.
//
// It answers the playback URLs: masters expanded over pathways with content
// steering, media playlists composed from records, segments and init segments
// out of package cache. Nothing on its way needs Postgres or NATS.
//
// Invariants
//
//   - The newest known playback record is obeyed before anything of an asset is
//     served: gone is gone, private needs a token, pinned stays in its regions.
//   - Tokens are verified offline against the newest key set. They are never
//     part of a cache key and never logged; kid and jti are.
//   - A media playlist never shows less than this process has shown.
//   - Every response body moves or its connection ends: a reader that takes
//     nothing for a while is dropped.
//   - What one client or one video can make it fetch at once is bounded, and a
//     saturated edge refuses new sessions, never segments of those that run.
//   - An edge that is asked by another never asks on.
//   - What players say of themselves (CMCD) is counted, under labels from fixed
//     sets, and goes no further: no answer, cache key, origin or log depends on it.
//
// When the own region's store fails the others are read; when all fail, what is
// in memory and on disk is served, under the last playback record known.
package edgecache
