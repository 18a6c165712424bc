// Package repair makes a region's object store hold what placement asks for: it
// copies what others have and the own listing lacks, and removes what the
// catalog says is superseded. Every region runs one, for its own store alone.
//
// What is copied
//
//   - journals (keys, purges, routing, certificates) and playback records: to every region.
//   - streams: to every region (placement "all"), to the pinned regions, or until
//     two regions have them ("two").
//   - sources and work: until two regions have them, within the pinned ones.
//
// Where a second copy is due, rendezvous hashing over the asset says which region
// makes it, so regions agree without asking each other. A region whose listing
// can't be had counts as having nothing; when it returns there may be one copy
// too many, which stays.
//
// Placement comes from the catalog; without it, from the asset's newest playback
// record. Where neither is known (an upload while the catalog is away) nothing is
// copied: it might be pinned elsewhere. Once known, a placement is remembered for
// as long as the catalog is away.
//
// Invariants
//
//   - Only the own store is written, and only with bytes whose hash is right.
//   - Nothing is deleted without the leader of the catalog. Deleted assets, failed
//     runs and finished work are the janitor's: what it removed and came back (from
//     a store that was away) is handed to it again. This package deletes attempts
//     that lost, and, after a day, what the catalog has never heard of, unless that
//     is most of the store: then it is the catalog that is wrong.
//   - Objects whose keys this version doesn't know are left alone.
//
// Failure behaviour: a region that is gone, hangs or breaks off is left out of
// the pass; a failed copy is tried again in the next. Passes follow each other
// with a pause; one starts at once when the own store comes back, empty or not.
package repair
