// Package keyset is `meridian keys`: it shows and changes the signed set of keys
// that edges, routers and APIs trust, which is the newest entry of the keys
// journal.
//
// Rotation publishes the new key's public half first and replaces the private
// one in the secrets directory afterwards: who gets it by a later restart meets
// nobody who doesn't know it. The old key stays in the set, so that what it has
// signed stays right, until it is revoked. Private halves never leave the
// directory.
//
// Failure behaviour: a set that no majority of regions took changes nothing in
// the directory; one that was published and whose directory couldn't be written
// is found by the next call, which goes on from it under another key id.
package keyset
