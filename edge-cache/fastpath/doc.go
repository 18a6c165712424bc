// Package fastpath answers plain GET and HEAD requests of HTTP/1.1 connections and
// leaves everything else to net/http.
//
// A Listener's connections belong to a few event loops. A head that is complete,
// strictly formed (RFC 9112) and free of anything that could make the answer another
// than the stored one, or a part of it, is offered to the Responder; what it takes is
// written at once, large bodies from a copy whose pages the kernel sends as they are,
// those on disk from their file. Every other request goes to net/http, which accepts
// the connection from the Listener with every byte already read, and the connection
// comes back once it has been answered: net/http finds it ended. An encrypted
// connection has a goroutine in place of a loop, as most of its answer is encryption;
// one that agreed on HTTP/2 is a Session's from the handshake on.
//
// Why a loop of its own: Go's poller wakes a second thread with every batch of
// ready connections, to look for work that there isn't. A loop waits in a system
// call of its own while there is traffic, and in Go's poller when there is none.
//
// Invariants
//
//   - What the fast path doesn't fully understand it doesn't answer: a head with
//     an unusual byte, a body or an upgrade is net/http's.
//   - Only bytes of the request being handed over are handed over. A connection
//     whose next request might already be in net/http's buffer, or whose request
//     had a body, stays with net/http until it ends.
//   - Heads have a deadline from their first byte, idle connections from their
//     last answer, and a response that doesn't move ends its connection.
//   - A loop doesn't wait for the disk: what the kernel hasn't of a file a goroutine
//     reads first.
//   - A connection that has had its turn, in requests or bytes, waits for the others.
//   - Closing the Listener ends the connections that wait for a request and lets
//     answers that are being written finish; Drain waits for these.
//
// An idle connection holds no buffer of this package, and no goroutine unless it is
// encrypted. That one has answered nothing, so its stack is small.
package fastpath
