// Package fastpath answers plain GET requests of an HTTP/1.1 connection straight
// from the connection and leaves everything else to net/http.
//
// A Listener's connections look at the bytes before net/http does. A head that
// is complete, strictly formed (RFC 9112) and free of anything that could make
// the answer another than the stored one is offered to the Responder; what it
// takes is written with one system call and net/http never knows. Every other
// request, with every byte already read, goes to net/http, and the connection
// comes back once net/http has answered it.
//
// Invariants
//
//   - What the fast path doesn't fully understand it doesn't answer: a head with
//     an unusual byte, a body, an upgrade, a condition or a range is net/http's.
//   - Only bytes of the request being handed over are handed over. A connection
//     whose next request might already be in net/http's buffer, or whose request
//     had a body, stays with net/http until it ends.
//   - Heads have a deadline from their first byte, idle connections from their
//     last answer, and a response that doesn't move ends its connection.
//   - Closing a connection, as http.Server.Shutdown does with idle ones, lets an
//     answer that is being written finish; Drain waits for these.
//
// An idle connection holds no buffer of this package.
package fastpath
