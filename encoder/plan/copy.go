package plan

import (
	"slices"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/hls"
)

// copyable reports whether a source can be its own highest rung: H.264 that
// every player decodes, upright, in square pixels and progressive, whose closed
// groups of pictures begin wherever a segment does, and which doesn't cost
// viewers much more than an encode would.
func copyable(src probe.Source, x probe.Index, pts []int64, starts []int, own Rung) bool {
	v := src.Video
	square := v.SAR == hls.Rational{} || v.SAR.Num == v.SAR.Den
	switch {
	case v.Codec != "h264" || v.Pixels != "yuv420p" || !slices.Contains([]string{"Constrained Baseline", "Main", "High"}, v.Profile):
		return false
	case v.HDR || v.Interlaced || v.Rotate != 0 || !square || v.Width != own.Width || v.Height != own.Height:
		return false
	case !x.Closed || x.Repeats || v.TimeBase.Num != 1:
		return false
	case src.BitRate == 0 || float64(src.BitRate) > maxCopyRate*float64(own.MaxRate):
		return false
	}
	for _, s := range starts {
		if _, ok := slices.BinarySearch(x.Keys, pts[s]); !ok {
			return false
		}
	}
	return true
}

// maxCopyRate is how much more than an encode's cap a copied source may take.
const maxCopyRate = 1.5
