// Package health keeps a geo.Board's view of which edges and routers work.
//
// A Monitor probes every target each 500 ms with a real request, body and all,
// over kept connections. One refused connection takes a target down at once;
// a timeout or a bad answer must happen twice in a row, because a slow moment
// looks the same; two good answers in a row bring it back. Monitors of all
// regions share what they see over NATS core each 250 ms and at once on change.
//
// The rule: a target is down when I can't reach it and no living witness can. A
// report lives for 750 ms, for three seconds where nothing at all is heard of the
// target, because then reports may be as late as answers; a router is no witness
// for targets of its own region, because it may be cut off together with them. A
// router that hears
// nobody trusts itself and says so (Snapshot.Alone).
//
// Failure: without NATS everything goes on by the own view. A probe whose
// timeout fired much too late says more about this process (starved, or
// stopped and continued) than about the target, and is thrown away. Reports
// that can't be sent or parsed are counted and dropped; they are perishable.
package health
