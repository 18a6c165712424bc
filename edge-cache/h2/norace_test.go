//go:build !race

package h2

const raceAllocs = 0.0
