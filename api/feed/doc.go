// Package feed hands what becomes visible on to many listeners: one reader of
// the events stream per process, and a bounded memory of the newest events for
// listeners that come back.
//
// Invariants
//
//   - Events reach a listener in the order of the stream, each once; their
//     sequence numbers are the stream's, the same in every process.
//   - A listener that doesn't keep up is ended and not waited for; it comes back
//     with the last number it saw.
//   - A listener that asks for more than is remembered is told so, and looks at
//     the current state instead.
//
// Failure. While NATS is away listeners hear nothing; the reader goes on where it
// was. Events wait in the catalog's outbox, so none is lost.
package feed
