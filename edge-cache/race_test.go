//go:build race

package edgecache

// raceAllocs is what the race detector itself allocates in an answer.
const raceAllocs = 1
