//go:build !race

package edgecache

const raceAllocs = 0
