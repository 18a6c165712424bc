// Package geo decides which regions a viewer is sent to.
//
// A Snapshot is everything the decision depends on: the regions and their
// places, what is healthy, loaded or drained, and a geo database. It is
// immutable; Board publishes the current one. Decide is a pure function of a
// snapshot and a query, and DNS, HTTP redirects and HLS steering all call it,
// so that the three never disagree.
//
// Invariants: a decision holds every region exactly once. Regions the asset may
// not leave to come last and are never offered. Among the allowed ones, a
// region that works always comes before one that is down, and the order of two
// regions does not depend on the health of a third. A viewer whose location is
// not known precisely (not in the database, only a country, anycast) is never
// guessed at: table order applies.
//
// Failure: without a database, or with a corrupt one at start, every location is
// unknown. A corrupt file that appears later is refused and the database in use
// is kept. With every allowed region down all are still returned, in order,
// with Alarm set, because a wrong answer may work and an empty one never does.
package geo
