// Package peer lets the edges of a region share objects: a miss for an object
// that another edge owns is asked there before the stores are.
//
// Invariants
//
//   - Every edge orders the edges of the region alike for each key (rendezvous
//     hashing, Thaler and Ravishankar 1998), so that one that joins or leaves moves
//     1/n of the keys. An edge asks only those before itself in that order, and an
//     edge that is asked asks no other: there are no loops.
//   - Loads are bounded (Mirrokni, Thorup and Zadimoghaddam 2018): who has a
//     quarter more of this edge's requests than the mean, or says that it is busy,
//     is passed over for the next in the order.
//   - Only immutable objects are shared, and only with who proves, by a MAC under a
//     key of the region, to be an edge of it.
//   - An edge that doesn't begin to answer soon is done without; what it is asked
//     for it brings all the same, for those who come next.
//
// What came from a peer stays in memory as long as it is asked for (so what is hot
// is held by all) and isn't written to disk, where its owner has it.
package peer
