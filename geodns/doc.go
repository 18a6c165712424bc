// Package geodns is the router: it sends every viewer to the nearest region
// that works, by DNS, by HTTP redirect and by HLS content steering, and serves
// the player's pages.
//
// All three ask geo.Decide over the same snapshot, so they agree. The router
// holds no state a viewer depends on: any router answers any request, also a
// steering request of a session another one began.
//
// What it needs: its region table. What it works without: NATS (health is then
// the own view), Postgres (never asked), object stores (redirects then go by
// distance and health alone; the edge obeys the playback record before it
// serves anything) and the geo database (table order). It is ready when DNS and
// HTTP listen and every edge has been probed once.
//
// DNS: a worker for each socket takes queries apart and answers them with tails,
// what follows the question prepared in wire form, one after the other and
// without allocating. The tails of names that depend on the viewer belong to one
// snapshot, order of regions and spot; geo.Orders says which order an address
// has, and for how wide a network the answer holds. Signatures are part of tails.
//
// A CA's challenges are records of the zone while they last; they come from the
// certificates that regions share (internal/certificate), as do those the router
// answers with, and a router may be told to order them.
//
// Operators' wishes come as entries of the routing journal, from the object
// stores alone.
//
// Bytes from outside, DNS packets and URLs, are refused when they are not
// exactly what is expected: a path holds no escapes, an asset id is 26
// characters of base32, and a DNS message that can't be parsed gets FORMERR or
// nothing. Steering never answers 429 or 410, which end it for good in players;
// under load its TTL grows.
package geodns
