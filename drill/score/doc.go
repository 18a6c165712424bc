// Package score compares what was observed in a drill with what must hold.
//
// Evaluate is a pure function of a scenario and its observations. Every
// objective gets a value, the value of the control phase beside it, and a
// verdict. What was to be judged and couldn't be measured fails. What the control
// phase, without any fault, misses too is unsure: the machine may be at fault,
// and the drill has shown nothing. Only a run without failures and without doubt
// has passed.
package score
