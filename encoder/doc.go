// Package encoder is the worker that turns sources into streams: it probes,
// measures and plans a run, encodes video in all rungs at once, several chunks to a
// process, copies what needs no encoding, encodes tracks of audio as they advance,
// and publishes segments and records. Posters, storyboards and previews follow once
// a run is complete.
//
// Invariants
//
//   - Whatever decides the output is in the plan. A task can be repeated by any
//     worker, and its segments lie under keys of its own attempt.
//   - A segment counts only through its record, a record only through a commit
//     fenced by the attempt; both are in enough regions before that.
//   - The frames a chunk produced are compared with its slice of the source's
//     frame index before it is committed.
//
// Failure. A source that can't be encoded gives jobs.BadInput with the probe's
// code and is not tried again. What the source's objects, the store or ffmpeg's
// surroundings did is transient: the task is offered again, elsewhere first. A
// cancelled task's children are dead within a second.
package encoder
