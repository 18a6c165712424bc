// Package wan is a wide-area network in user space. It joins network
// namespaces on one machine, the regions and their viewers, and forwards IPv4
// packets between them with the delay, jitter, loss, rate and silence each
// direction of each pair is set to, changed while traffic flows. Linux, root.
//
// A [Network] has one TUN device in every node's namespace and one goroutine
// that serves them all. A packet whose destination belongs to another node enters
// the [Link] to it, a bounded queue, and is written to the other device when it is
// due, or up to a millisecond later.
//
// A [Namespace] is a network namespace held by one thread of this process.
// Commands started in it are the first process of a PID namespace of their own.
//
// Invariants:
//   - A link never reorders: a packet is due no earlier than the one before it,
//     whatever the jitter.
//   - When Silence, Cut or SetLink returns, nothing silenced arrives any more,
//     packets on their way included. Silence is never refusal: no answer of any
//     kind is sent. The inside of a silent node works as before.
//   - A node can't send from an address that isn't its own.
//   - Nothing is queued beyond Config.QueueBytes a link, or half a second of a
//     link's rate; what doesn't fit is dropped and counted.
//   - When Wait of a command returns, no process started by it or below it is
//     alive, daemons included.
//
// On failure: New undoes what it made. A device that fails ends Run with an
// error. When this process dies, however it dies, the kernel kills the commands
// and removes devices, routes and namespaces: nothing is left to clean up.
package wan
