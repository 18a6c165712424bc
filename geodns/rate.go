package geodns

import (
	"sync"
	"time"
)

// Steering TTLs in seconds.
const (
	minTTL = 2
	maxTTL = 20
)

// rate turns the rate of steering requests into a TTL: players are told to ask
// less often rather than refused.
type rate struct {
	capacity float64
	now      func() time.Time

	mu      sync.Mutex
	second  int64
	count   float64
	average float64 // requests per second, smoothed over a few seconds
}

func newRate(capacity int, now func() time.Time) *rate {
	return &rate{capacity: float64(capacity), now: now}
}

// ttl counts a request and returns the TTL to give it.
func (r *rate) ttl() int {
	sec := r.now().Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	if sec != r.second {
		gap := sec - r.second
		r.average = 0.5*r.average + 0.5*r.count
		if gap > 8 || gap < 0 {
			r.average = 0 // long quiet, or the clock was set
		} else {
			for ; gap > 1; gap-- {
				r.average *= 0.5
			}
		}
		r.second, r.count = sec, 0
	}
	r.count++
	// The running second counts as soon as it exceeds what was usual.
	return min(maxTTL, max(minTTL, int(minTTL*max(r.average, r.count)/r.capacity)+minTTL-1))
}
