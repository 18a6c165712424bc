// Package scenario is the format in which failures are written down: what
// happens to whom and when, under which load, and what must hold meanwhile.
//
// A scenario is one YAML document, decoded strictly: an unknown key, a value
// that can't be, and a promise that nothing measures are errors, all named at
// once with file, line and what to change. Names of regions are not known here;
// who runs a scenario resolves them against a platform.
//
// Times of steps count from the first moment after the control phase.
package scenario
