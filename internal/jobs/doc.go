// Package jobs moves work and news between processes: the dispatcher that keeps
// a short, fair window of tasks in JetStream, the workers that pull, claim and
// renew them, the janitor that sweeps up after what died, and the events that
// tell what became visible.
//
// Invariants
//
//   - Task rows in the catalog are the backlog and the truth. A message only says
//     "look at this task": losing or doubling messages changes nothing but when.
//   - Whoever works on a task holds an attempt of it. One beat every five seconds
//     renews the row and the message together; work whose claim is lost is
//     cancelled, and its results are refused by the fence.
//   - Failures are counted in the row. What fails for good fails its run with a
//     typed reason, and is told to the DEAD stream.
//
// Failure. Without NATS nothing is dispatched and events wait in the outbox; work
// under way goes on. Without PostgreSQL work under way goes on, the fence decides
// when it is back. A worker that is killed or frozen loses its task to another
// after one lease.
package jobs
