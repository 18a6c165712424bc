// Package journal follows sequences of numbered, write-once objects: signed key
// sets, purges, routing entries, and the playback records of an asset; and sealed
// ones, the state of certificates.
//
// Invariants
//
//   - Entries are gapless: entry n + 1 is written only after entry n.
//   - A follower finds the newest entry by asking every region at once, then
//     reads one number after the other, each second. It never goes back, and
//     keeps what it has while no region answers.
//   - An entry that is missing although later ones exist was trimmed away: the
//     follower starts anew at the newest, and whoever depends on every entry is
//     told (an edge empties its cache).
//   - Entries count only with a good signature: the root's on key sets, a record
//     key's on purges; sealed ones only when they open under their own number.
package journal
