package plan

import (
	"math"
	"strconv"
)

// Rung is one size of the picture.
type Rung struct {
	// ID is "v1080": the height of the 16:9 box the picture fits into.
	ID     string `json:"id"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	// MaxRate and BufferSize cap the encoder's rate, in bit/s.
	MaxRate    int64 `json:"max_rate"`
	BufferSize int64 `json:"buffer_size"`
	// Level is H.264's, times ten.
	Level int `json:"level"`
}

// Codecs is the RFC 6381 string of the rung: High profile at its level.
func (r Rung) Codecs() string {
	return "avc1.6400" + hex2(r.Level)
}

func hex2(n int) string {
	const digits = "0123456789ABCDEF"
	return string([]byte{digits[n>>4&15], digits[n&15]})
}

// Peak is the most a two-second segment can take: the cap and a full buffer.
func (r Rung) Peak() int64 { return r.MaxRate + r.BufferSize/2 }

// class is the height of the smallest upright 16:9 box that holds the picture
// in either orientation. A film of 1920 × 800 and a phone's 1080 × 1920 are
// both "1080".
func class(width, height int) int {
	short, long := min(width, height), max(width, height)
	return max(short, int(math.Round(float64(long)*9/16)))
}

// Ladder returns the rungs of a picture in square pixels, highest first. None
// is larger than the picture. A picture between two rungs keeps its own size as
// the highest rung, in place of the next lower one if that is within 15 %.
func Ladder(width, height int, fps float64, heights []int) []Rung {
	own := class(width, height)
	sizes := []int{}
	for _, h := range heights {
		if h <= own {
			sizes = append(sizes, h)
		}
	}
	switch {
	case len(sizes) == 0:
		sizes = []int{own}
	case sizes[0] == own || own >= heights[0]:
	case float64(own) <= 1.15*float64(sizes[0]):
		sizes[0] = own
	default:
		sizes = append([]int{own}, sizes...)
	}
	out := make([]Rung, 0, len(sizes))
	for _, h := range sizes {
		w, ht := width, height
		if h != own {
			scale := float64(h) / float64(own)
			w, ht = int(math.Round(float64(width)*scale)), int(math.Round(float64(height)*scale))
		}
		r := Rung{ID: "v" + strconv.Itoa(h), Width: even(w), Height: even(ht), MaxRate: maxRate(h, fps)}
		r.BufferSize = r.MaxRate
		r.Level = level(r.Width, r.Height, fps, r.MaxRate)
		out = append(out, r)
	}
	return out
}

// even rounds down to an even number, at least 2: 4:2:0 needs it, and rounding
// up would upscale.
func even(n int) int { return max(2, n&^1) }

// maxRate caps a rung's rate: about twice what CRF 23 needs for ordinary
// content, more above 40 frames per second.
func maxRate(height int, fps float64) int64 {
	points := []struct {
		height int
		rate   float64
	}{{0, 100e3}, {240, 400e3}, {360, 800e3}, {480, 1400e3}, {720, 3000e3}, {1080, 6000e3}, {1440, 10000e3}, {2160, 18000e3}, {4320, 50000e3}}
	rate := points[len(points)-1].rate
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if height <= b.height {
			rate = a.rate + (b.rate-a.rate)*float64(height-a.height)/float64(b.height-a.height)
			break
		}
	}
	if fps > 40 {
		rate *= 1.5
	}
	return int64(rate/1000) * 1000
}

// level returns the lowest H.264 level (times ten) for High profile whose
// limits (Rec. H.264 table A-1) hold the picture, with four reference frames.
func level(width, height int, fps float64, rate int64) int {
	mw, mh := (width+15)/16, (height+15)/16
	mbs := mw * mh
	for _, l := range levels {
		// High profile allows 1.25 times the listed rate.
		if mbs <= l.frame && float64(mbs)*fps <= float64(l.rate) && 4*mbs <= l.dpb && rate <= l.kbps*1250 &&
			mw*mw <= 8*l.frame && mh*mh <= 8*l.frame {
			return l.level
		}
	}
	return levels[len(levels)-1].level
}

// maxMacroblocks per second, per frame, in the decoded picture buffer; rate in kbit/s.
var levels = []struct {
	level, rate, frame, dpb int
	kbps                    int64
}{
	{10, 1485, 99, 396, 64}, {11, 3000, 396, 900, 192}, {12, 6000, 396, 2376, 384}, {13, 11880, 396, 2376, 768},
	{20, 11880, 396, 2376, 2000}, {21, 19800, 792, 4752, 4000}, {22, 20250, 1620, 8100, 4000}, {30, 40500, 1620, 8100, 10000},
	{31, 108000, 3600, 18000, 14000}, {32, 216000, 5120, 20480, 20000}, {40, 245760, 8192, 32768, 20000},
	{42, 522240, 8704, 34816, 50000}, {50, 589824, 22080, 110400, 135000}, {51, 983040, 36864, 184320, 240000},
	{52, 2073600, 36864, 184320, 240000}, {60, 4177920, 139264, 696320, 240000}, {62, 16711680, 139264, 696320, 800000},
}
