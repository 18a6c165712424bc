// Package catalog is the control plane's truth in PostgreSQL: owners and keys,
// assets, uploads and their parts, runs, tasks, committed chunks, and the outbox
// through which state becomes visible.
//
// Invariants
//
//   - A state that promises objects (playable, ready, a published chunk, a
//     playback record) is only visible once those objects are stored: the
//     transaction that decides it inserts an outbox row, and the Publisher flips
//     the state in the transaction that marks the row done.
//   - Results of work are accepted from the newest attempt of a task alone. Every
//     commit is one statement fenced by the attempt; a loser gets ErrFenced and
//     leaves no trace.
//   - Bytes behind a derived key (records, masters, playback records, journals)
//     are fixed in an outbox row before their first PUT, so anyone may repeat it.
//   - Masters and playback records are numbered without gaps, and number n is
//     stored only after n-1.
//
// What a run looks like to viewers is decided in one place, advance.go, from the
// rows alone and under the asset's lock: deciding twice gives nothing new.
//
// Failure. A Catalog can be opened while PostgreSQL is away; Ready says why it
// isn't usable. Writes go to the leader: when it is demoted or lost, its pool is
// left at once, and the caller gets ErrUnavailable, to be tried again. Such an
// error leaves open whether the write happened; every write here may be repeated.
// Reads prefer the nearest server, and ask the leader when that hasn't replayed what
// the session has written, or what anyone has committed some seconds ago.
package catalog
