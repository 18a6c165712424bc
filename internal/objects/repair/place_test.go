package repair

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/internal/objects"
)

const someAsset = "abcdefghijklmnopqrstuvwxyz"

func TestClassify(t *testing.T) {
	for key, want := range map[string]object{
		"keys/0000000001.json":                                {reach: everywhere, urgency: urgent},
		"purges/0000000001.json":                              {reach: everywhere, urgency: urgent},
		"routing/0000000001.json":                             {reach: everywhere, urgency: urgent},
		"streams/" + someAsset + "/playback/0000000001.json":  {asset: someAsset, reach: everywhere, urgency: urgent},
		"streams/" + someAsset + "/r1/master/1.m3u8":          {asset: someAsset, reach: placed, urgency: soonish},
		"streams/" + someAsset + "/r1/v0/records/00000.json":  {asset: someAsset, reach: placed, urgency: soonish},
		"streams/" + someAsset + "/r1/v360/init-01234567.mp4": {asset: someAsset, reach: placed, urgency: soonish},
		"streams/" + someAsset + "/r1/v360/00000-1/00000.m4s": {asset: someAsset, reach: placed, urgency: bulk},
		"streams/" + someAsset + "/r1/extra/poster-1":         {asset: someAsset, reach: placed, urgency: bulk},
		"sources/" + someAsset + "/parts/00000-x":             {asset: someAsset, reach: twice, urgency: soonish},
		"work/" + someAsset + "/r1/remux/00000-1":             {asset: someAsset, reach: twice, urgency: soonish},
		"health/eu.bin":                                  {},
		"streams/" + someAsset:                           {},
		"streams/../r1/master/1.m3u8":                    {},
		"something/" + someAsset + "/of/a/later/version": {},
		"": {},
	} {
		got, ok := classify(key)
		require.Equal(t, want != object{}, ok, key)
		if ok {
			want.Key = key
			require.Equal(t, want, got)
		}
	}
}

// TestRegionsAgree: whatever regions hold an object, are away, or are allowed,
// those that find a copy due make exactly as many as are missing.
func TestRegionsAgree(t *testing.T) {
	all := []string{"eu", "us", "ap", "sa"}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, len(all)).Draw(t, "regions")
		regions := all[:n]
		subset := func(label string) []string {
			return slices.DeleteFunc(slices.Clone(regions), func(string) bool { return rapid.Bool().Draw(t, label) })
		}
		holders, away := subset("holders"), subset("away")
		p := objects.Placement{Mode: rapid.SampledFrom([]objects.Mode{objects.PlaceAll, objects.PlaceTwo, objects.PlacePinned}).Draw(t, "mode")}
		allowed := regions
		if p.Mode == objects.PlacePinned {
			p.Regions = subset("pinned")
			allowed = p.Regions
		}
		o := object{asset: rapid.StringMatching(`[a-z2-7]{26}`).Draw(t, "asset"), reach: rapid.SampledFrom([]reach{everywhere, placed, twice}).Draw(t, "reach")}
		copies := min(2, n)
		have, makes := 0, 0
		for i, self := range regions {
			up := !slices.Contains(away, self)
			names := slices.Concat([]string{self}, regions[:i], regions[i+1:])
			own := o
			var gone uint64
			for j, name := range names {
				if slices.Contains(holders, name) && !slices.Contains(away, name) {
					own.holders |= 1 << j
				}
				if slices.Contains(away, name) {
					gone |= 1 << j
				}
			}
			switch {
			case !up:
			case own.holders&1 != 0:
				if slices.Contains(allowed, self) {
					have++
				}
			case due(own, p, names, gone, copies):
				makes++
				if o.reach != everywhere && !slices.Contains(allowed, self) {
					t.Fatalf("%s isn't allowed", self)
				}
			}
		}
		up := slices.DeleteFunc(slices.Clone(allowed), func(name string) bool { return slices.Contains(away, name) })
		want := max(0, min(copies, len(up))-have)
		switch {
		case o.reach == everywhere:
			want = 0
			for _, name := range regions {
				if !slices.Contains(away, name) && !slices.Contains(holders, name) {
					want++
				}
			}
		case o.reach == placed && p.Mode != objects.PlaceTwo:
			want = len(up) - have
		}
		if makes != want {
			t.Fatalf("%d copies are made, want %d: placement %+v, held by %v, away %v, reach %d", makes, want, p, holders, away, o.reach)
		}
	})
}
