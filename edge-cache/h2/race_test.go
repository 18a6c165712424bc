//go:build race

package h2

// raceAllocs are those of the race detector, which also empties pools.
const raceAllocs = 1000.0
