// Package drill is `meridian drill`: it loses parts of a running platform on
// purpose, while simulated viewers watch and creators upload, and says with
// figures what they noticed.
//
// A run of a scenario has phases: the platform is waited for until it is whole,
// viewers arrive and fill their buffers, a control phase is counted without any
// fault, then the scenario's steps happen and are undone, then it is waited for
// until the platform is whole, every acknowledged upload ready, and every store
// as the catalog says. Package score judges what was observed, package report
// writes it down.
//
// A drill undoes what it did, also when it is interrupted, and deletes what its
// creators made. What it can't undo it names.
package drill
