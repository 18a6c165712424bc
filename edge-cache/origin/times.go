package origin

import (
	"slices"
	"sync"
	"time"
)

const (
	// window is how many answers an origin's usual time is of, enough how many are
	// needed to tell.
	window = 64
	enough = 8
	// The times after which the next origin is asked as well: unknown before enough
	// answers, and the bounds of what the answers tell.
	hedgeUnknown = 250 * time.Millisecond
	hedgeLeast   = 10 * time.Millisecond
	hedgeMost    = time.Second

	// A twentieth of the fetches may be hedged, in bursts of at most budgetMost.
	budgetShare = 0.05
	budgetMost  = 5
)

// times are an origin's last times to the first byte. The zero value knows none.
type times struct {
	mu   sync.Mutex
	last [window]time.Duration
	n    int
	p95  time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[t.n%window] = d
	t.n++
	if t.n < enough || t.n%enough != 0 {
		return
	}
	sorted := slices.Clone(t.last[:min(t.n, window)])
	slices.Sort(sorted)
	t.p95 = sorted[len(sorted)*95/100]
}

func (t *times) usual() (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.p95, t.n >= enough
}

func (t *times) hedgeAfter() time.Duration {
	d, ok := t.usual()
	if !ok {
		return hedgeUnknown
	}
	return min(max(d, hedgeLeast), hedgeMost)
}

// budget bounds hedges to a share of fetches.
type budget struct {
	mu     sync.Mutex
	tokens float64
}

func (b *budget) earn() {
	b.mu.Lock()
	b.tokens = min(budgetMost, b.tokens+budgetShare)
	b.mu.Unlock()
}

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
