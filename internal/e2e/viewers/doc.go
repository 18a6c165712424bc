// Package viewers puts viewers at places on the network: a Viewer is a source
// address near a region, from which a real browser watches.
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
// when a response is on its way, so that tests can lose a region in the middle
// of a segment.
//
// The package's tests watch real video on three isolated regions which are lost
// and brought back (root).
package viewers
