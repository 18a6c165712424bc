// Package viewer puts a viewer at a place on the network: an address near a
// region, from which a real browser watches.
//
// Browsers can't bind a source address, so each viewer is a SOCKS5 proxy on a
// loopback port whose connections are made from the viewer's address, in a
// network namespace if need be. SOCKS carries connections, not requests: what a
// region does to a connection, refusing, resetting, hanging or silencing it,
// reaches the browser as it would without a proxy. Names are resolved by the
// platform's own name servers, also asked from the viewer's address; there is no
// other resolver, and no header chooses a region.
//
// A viewer can have a slow line, counts what it received from whom, and tells
// when a response is on its way, so that a region can be lost in the middle of a
// segment.
package viewer
