// Package h2 answers HTTP/2 (RFC 9113) on encrypted connections.
//
// A connection has one goroutine. It reads frames, answers by itself what the
// Responder has in memory, and writes what has gathered before it waits for more. A
// response the socket doesn't take at once goes on in a second goroutine for as long
// as that lasts. Every other request has a goroutine in which the http.Handler
// answers it; what it writes waits, uncopied, for its turn.
//
// Invariants
//
//   - Whoever has the role of the writer, and nobody else, writes. Header blocks go
//     out in the order they were encoded in, and before bodies; bodies take turns,
//     frame by frame, within the most urgent (RFC 9218) that can be sent.
//   - A connection holds at most 100 requests, handlers of withdrawn ones included,
//     64 KiB of each request's content and 256 KiB of all, one header block of
//     bounded size, and frames of its own up to a bound, beyond which it doesn't
//     read. A connection that waits holds no buffer of this package.
//   - A request that breaks the rules costs its stream; one that leaves the two
//     sides without a common state, or costs more than it is for, the connection.
//   - Readers that don't read, connections that ask for nothing and heads that don't
//     end have the deadlines of HTTP/1.1.
//   - The response a handler didn't finish is reset, never ended.
//   - Serve returns when all handlers have.
package h2
