// Package journal follows sequences of numbered, write-once objects: signed key
// sets, purges, routing entries, and the playback records of an asset.
//
// Entries are gapless: entry n+1 is written only after entry n. A follower
// finds the newest entry by listing every region at once, then asks for the
// next number. It never goes back, and keeps what it has while no region answers.
package journal
