// Package worldmap is the world's outline and the projection it is drawn in.
//
// The outline, land.txt, is SVG path data that generate makes of Natural Earth's
// 1:110m land, which is in the public domain. Antarctica is left out, and what
// would lie below the map's edge with it.
package worldmap

import (
	_ "embed"
	"math"
	"strings"

	"github.com/meridian-video/meridian/internal/geo"
)

//go:embed land.txt
var land string

// Width and Height of the map, in its units.
const (
	Width  = 2000
	Height = 880
)

// Land is the outline as SVG path data.
func Land() string { return strings.TrimSpace(land) }

// scale is units per radius; top is the northern edge in radii.
const (
	extent = 2.70663 // x of 180° on the equator
	scale  = Width / (2 * extent)
	top    = 1.32
)

// Project returns where p lies on the map, from its upper left corner, by the
// Equal Earth projection (Šavrič, Patterson, Jenny 2018, equations 1 to 4): areas
// keep their proportions.
func Project(p geo.Point) (x, y float64) {
	const (
		rad            = math.Pi / 180
		a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
	)
	m := math.Sqrt(3) / 2
	t := math.Asin(m * math.Sin(p.Latitude*rad))
	t2 := t * t
	t6 := t2 * t2 * t2
	x = p.Longitude * rad * math.Cos(t) / (m * (a1 + 3*a2*t2 + t6*(7*a3+9*a4*t2)))
	y = t * (a1 + a2*t2 + t6*(a3+a4*t2))
	return Width/2 + x*scale, (top - y) * scale
}
