package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
)

// TestSplit: what lies on both sides of the antimeridian becomes two rings, neither
// of which crosses the map.
func TestSplit(t *testing.T) {
	ring := []geo.Point{{Latitude: 10, Longitude: 170}, {Latitude: 10, Longitude: -170}, {Latitude: -10, Longitude: -170}, {Latitude: -10, Longitude: 170}}
	parts := split(ring)
	require.Len(t, parts, 2)
	for i, want := range [][2]float64{{-180, -170}, {170, 180}} {
		require.Len(t, parts[i], 4)
		for _, p := range parts[i] {
			require.Contains(t, want, p.Longitude)
		}
	}
	whole := []geo.Point{{Longitude: 1}, {Longitude: 2}, {Latitude: 1, Longitude: 2}}
	require.Equal(t, [][]geo.Point{whole}, split(whole))
}
