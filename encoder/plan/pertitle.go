package plan

import "math"

// PerTitle says how a ladder follows a source's complexity. The zero value leaves
// the ordinary ladder.
type PerTitle struct {
	Enabled bool `yaml:"enabled" json:"enabled"`
	// MinRate and MaxRate bound a rung's cap, in parts of the ordinary one.
	MinRate float64 `yaml:"min_rate" json:"min_rate"`
	MaxRate float64 `yaml:"max_rate" json:"max_rate"`
	// Headroom is the cap in parts of what the busiest segment is predicted to take.
	Headroom float64 `yaml:"headroom" json:"headroom"`
	// Merge leaves a rung out that is predicted to take more than this part of what
	// the next higher one does, both above the slowest line that counts: one that
	// holds the lowest rung of the ordinary ladder.
	Merge float64 `yaml:"merge" json:"merge"`
}

// leastRungs of a ladder stay: the highest, and a low one for slow lines.
const leastRungs = 2

// PerTitleRun is what was concluded from a source's complexity, in a run's plan.
type PerTitleRun struct {
	Complexity Complexity `json:"complexity"`
	// Rungs are those of the ordinary ladder; none when nothing was measured.
	Rungs []Prediction `json:"rungs,omitempty"`
}

// Prediction is about one rung of the ordinary ladder, in bit/s.
type Prediction struct {
	ID string `json:"id"`
	// Rate is the average expected, Peak that of the busiest segment; neither is
	// above what the cap allows.
	Rate int64 `json:"rate"`
	Peak int64 `json:"peak"`
	// MaxRate is the cap chosen, Ordinary what it is without per-title encoding.
	MaxRate  int64 `json:"max_rate"`
	Ordinary int64 `json:"ordinary"`
	// LeftOut says that the rung isn't encoded.
	LeftOut bool `json:"left_out,omitempty"`
}

// perTitle fits a ladder, highest rung first, to a source's complexity. fixed is
// the rate of the highest rung where that isn't encoded but copied, else 0.
func perTitle(all []Rung, fps float64, c Complexity, p Profile, fixed int64) ([]Rung, []Prediction) {
	if !p.PerTitle.Enabled || c.Missing != "" || c.Windows == 0 || len(all) <= leastRungs {
		return all, nil
	}
	fitted := make([]Rung, len(all))
	predictions := make([]Prediction, len(all))
	for i, r := range all {
		rate, peak := c.rates(float64(r.Width)*float64(r.Height), fps, p.SegmentSeconds)
		ordinary := float64(r.MaxRate)
		limit := min(max(peak*p.PerTitle.Headroom, ordinary*p.PerTitle.MinRate), ordinary*p.PerTitle.MaxRate)
		predictions[i] = Prediction{ID: r.ID, Ordinary: r.MaxRate}
		r.MaxRate = int64(math.Ceil(limit/1000)) * 1000
		if i > 0 {
			r.MaxRate = min(r.MaxRate, fitted[i-1].MaxRate)
		}
		r.BufferSize = r.MaxRate
		r.Level = level(r.Width, r.Height, fps, r.MaxRate)
		fitted[i] = r
		q := &predictions[i]
		q.MaxRate = r.MaxRate
		q.Rate, q.Peak = int64(min(rate, float64(r.MaxRate))), int64(min(peak, float64(r.Peak())))
		if i == 0 && fixed > 0 {
			q.Rate, q.Peak = fixed, max(fixed, q.Peak)
		}
	}
	slowest := all[len(all)-1].Peak()
	near := func(low, high int) bool {
		return float64(predictions[low].Rate+slowest) > p.PerTitle.Merge*float64(predictions[high].Rate+slowest)
	}
	// The slowest line gets the best rung it holds.
	lowest, above := len(all)-1, 0
	for i := lowest - 1; i > 0 && fitted[i].Peak() <= slowest; i-- {
		predictions[lowest].LeftOut = true
		lowest = i
	}
	for i := 1; i < lowest; i++ {
		if predictions[i].LeftOut = near(i, above); !predictions[i].LeftOut {
			above = i
		}
	}
	kept := make([]Rung, 0, len(all))
	for i, r := range fitted {
		if !predictions[i].LeftOut {
			kept = append(kept, r)
		}
	}
	return kept, predictions
}
