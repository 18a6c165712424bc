// Package archive keeps a copy of all objects in a bucket outside of the
// platform, and brings back from it what a restored catalog names.
//
// Save copies by listing what any region has and the archive lacks. An archive
// therefore has the objects of every moment before, and a catalog restored to any
// of them finds its own there. Restore copies only those: objects that came after
// would stand in the way of the numbers that are given again.
//
// Invariants
//
//   - What is copied, either way, has the bytes its SHA-256 names, or isn't.
//   - An archive that was restored from takes nothing more: from then on the
//     platform gives numbers again that are taken there. The next archive is a new
//     bucket.
//   - Only Trim deletes, and only what no region lists, with all regions listed.
//
// Failure behaviour: an object that can't be copied is counted and named, the
// others are copied; what was done is done, and calling again goes on. A region
// that can't be listed is an error in the end, after the others were copied.
package archive
