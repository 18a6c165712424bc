// Package upload receives files over tus 1.0 (https://tus.io/protocols/resumable-upload)
// through tusd's handler and stores them as parts.
//
// Invariants
//
//   - The offset a client sees has been acknowledged: a part is stored in as
//     many regions as its placement asks for, and its row is in the catalog,
//     before the offset moves over it. Any process in any region can go on.
//   - An upload in memory is one small buffer; on disk it is at most two parts,
//     one filling while the other is stored. How many uploads are received at
//     once is bounded; one more gets 503 with Retry-After.
//   - Two writers can't mix their bytes. Within a process the newer request ends
//     the older one at once, so that a broken connection never locks an upload;
//     between processes the catalog accepts only the part that starts where the
//     upload stands.
//
// Failure. A connection that breaks keeps what had arrived, as a smaller part.
// While the database has no leader or too few regions store, the part on hand is
// tried again for a while; then the client gets 503 and sends it again later. A
// process that dies loses at most the parts it held, never an acknowledged one.
package upload
