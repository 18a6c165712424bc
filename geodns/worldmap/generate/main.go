// Command generate turns the land of world-atlas (TopoJSON made of Natural Earth
// 1:110m, which is in the public domain) into the outline of the map:
//
//	npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
//	go run ./geodns/worldmap/generate package/land-110m.json > geodns/worldmap/land.txt
//
// The outline is in units of the map, whole numbers, each step relative to the
// one before, without Antarctica.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/meridian-video/meridian/geodns/worldmap"
	"github.com/meridian-video/meridian/internal/geo"
)

// south leaves out what lies wholly south of it, in degrees.
const south = -60

type topology struct {
	Transform struct {
		Scale, Translate [2]float64
	}
	Arcs    [][][2]float64
	Objects struct {
		Land struct {
			Geometries []struct {
				Type string
				Arcs [][][]int // polygons of rings of arcs
			}
		}
	}
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument, world-atlas's land-110m.json")
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var t topology
	if err := json.Unmarshal(b, &t); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	var d strings.Builder
	for _, g := range t.Objects.Land.Geometries {
		if g.Type != "MultiPolygon" {
			return fmt.Errorf("%s: geometry %s: want MultiPolygon", args[0], g.Type)
		}
		for _, polygon := range g.Arcs {
			for _, ring := range polygon {
				if err := t.ring(&d, ring); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
		}
	}
	_, err = fmt.Fprintln(out, d.String())
	return err
}

// ring writes a ring of arcs.
func (t *topology) ring(d *strings.Builder, arcs []int) error {
	var points []geo.Point
	north := -90.0
	for _, i := range arcs {
		arc, err := t.arc(i)
		if err != nil {
			return err
		}
		for _, p := range arc {
			north = max(north, p.Latitude)
		}
		points = append(points, arc...)
	}
	if north < south {
		return nil
	}
	for _, part := range split(points) {
		outline(d, part)
	}
	return nil
}

// split cuts a ring at the antimeridian, where the map ends.
func split(ring []geo.Point) [][]geo.Point {
	// Without jumps from one side to the other it may lie on both sides of ±180°.
	west, east := 180.0, -180.0
	for i := range ring {
		if i > 0 {
			ring[i].Longitude += 360 * math.Round((ring[i-1].Longitude-ring[i].Longitude)/360)
		}
		west, east = min(west, ring[i].Longitude), max(east, ring[i].Longitude)
	}
	var out [][]geo.Point
	for _, turn := range []float64{-360, 0, 360} {
		if east+turn <= -180 || west+turn >= 180 {
			continue
		}
		part := slices.Clone(ring)
		for i := range part {
			part[i].Longitude += turn
		}
		out = append(out, clip(clip(part, 180, 1), -180, -1))
	}
	return out
}

// clip keeps what lies on one side of a meridian: west of it when side is 1, east
// when it is −1 (Sutherland, Hodgman 1974).
func clip(ring []geo.Point, meridian, side float64) []geo.Point {
	var out []geo.Point
	for i, b := range ring {
		a := ring[(i+len(ring)-1)%len(ring)]
		da, db := side*(meridian-a.Longitude), side*(meridian-b.Longitude)
		if (da < 0) != (db < 0) {
			out = append(out, geo.Point{Latitude: a.Latitude + (b.Latitude-a.Latitude)*da/(da-db), Longitude: meridian})
		}
		if db >= 0 {
			out = append(out, b)
		}
	}
	return out
}

// outline writes a closed path.
func outline(d *strings.Builder, points []geo.Point) {
	var px, py int
	var steps []string
	for i, p := range points {
		x, y := worldmap.Project(p)
		nx, ny := int(math.Round(x)), int(math.Round(y))
		switch {
		case i == 0:
			steps = append(steps, fmt.Sprintf("M%d %dl", nx, ny))
		case nx == px && ny == py:
			continue
		default:
			steps = append(steps, strings.ReplaceAll(fmt.Sprintf("%d %d", nx-px, ny-py), " -", "-"))
		}
		px, py = nx, ny
	}
	if len(steps) < 4 {
		return // an island smaller than a unit
	}
	d.WriteString(steps[0] + strings.ReplaceAll(strings.Join(steps[1:], " "), " -", "-") + "z")
}

// arc returns an arc's points; of ^i, those of i backwards.
func (t *topology) arc(i int) ([]geo.Point, error) {
	backwards := i < 0
	if backwards {
		i = ^i
	}
	if i >= len(t.Arcs) {
		return nil, fmt.Errorf("arc %d of %d", i, len(t.Arcs))
	}
	out := make([]geo.Point, len(t.Arcs[i]))
	var x, y float64
	for j, step := range t.Arcs[i] {
		x, y = x+step[0], y+step[1]
		at := j
		if backwards {
			at = len(out) - 1 - j
		}
		out[at] = geo.Point{Latitude: y*t.Transform.Scale[1] + t.Transform.Translate[1], Longitude: x*t.Transform.Scale[0] + t.Transform.Translate[0]}
	}
	return out, nil
}
