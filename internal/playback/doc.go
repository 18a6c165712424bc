// Package playback holds an asset's playback record, the small signed object
// that tells edges and routers what may be played, and the finder of its newest
// version.
//
// Records are numbered and written once (streams/{asset}/playback/{n}.json), so
// nothing mutable is replicated. A finder never goes back to a lower number; when
// no region answers, the last record it knew serves.
package playback
