// Package load tells what share of an edge's capacity is in use, and refuses new
// work before what runs suffers.
//
// The load is the largest of its sources: of what runs out first. Routers read it
// from probes' answers and send a share of new viewers elsewhere; what they can't
// turn away a Meter refuses itself, later and as gradually, with a gap between
// beginning and ending, so that refusing doesn't swing.
//
// A source that can't be read is left out: a load is never invented.
package load
