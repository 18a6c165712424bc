// Package order orders certificates from a CA by ACME (RFC 8555) and renews them,
// with certmagic, for everyone who shares them.
//
// The CA is convinced by DNS-01: TXT records below _acme-challenge, which the
// platform's own name servers answer. A record is part of the shared state, every
// router takes it from there, and the CA is asked to look only when all routers
// that answer at all answer with it.
//
// Every router may order; a lock in the shared state lets one at a time. It is
// held for longer than an order may take and then for nobody, so that a router
// that dies with it delays an order and prevents none.
//
// Failure behaviour: an order that fails is counted, logged and tried again after
// a quarter of an hour, then twice as long each time, up to six hours. A
// certificate is due when a third of its time is left, so weeks remain for that.
package order
