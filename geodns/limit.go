package geodns

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Response rate limiting: UDP answers to a source that hasn't proved its address
// are counted by network, because that address may be a victim's.
const (
	limitBuckets = 1 << 14
	limitNet4    = 24
	limitNet6    = 56
	// slip: of the answers above the rate every second is a truncated one, which
	// an honest resolver asks again over TCP for; the others are dropped.
	slip = 2
	// amplification is how many times a query's size an answer may have without
	// being counted as large.
	amplification = 3
)

// limits are answers a second for each network; 0 is no limit.
type limits struct {
	// answers of any size; large ones, more than amplification times the query, to
	// addresses proved by TCP alone, of which a negative rate lets none pass.
	answers, large int
}

// limiter holds the buckets of one worker: networks that share one by chance
// share its tokens. Not safe for concurrent use.
type limiter struct {
	limits
	seed    uint64
	buckets []limitBucket
}

type limitBucket struct {
	last           int64 // milliseconds
	answers, large float32
	over           uint32
}

// permit is what may be sent.
type permit int

const (
	permitAll permit = iota
	permitTruncated
	permitNothing
)

// newLimiter returns one of n workers' limiters. Packets of one address may
// reach any worker, so each gives its part of the rate.
func newLimiter(l limits, n int) *limiter {
	share := func(rate int) int {
		if rate <= 0 {
			return rate
		}
		return max(1, rate/n)
	}
	out := &limiter{limits: limits{share(l.answers), share(l.large)}, seed: rand.Uint64()}
	if l != (limits{}) {
		out.buckets = make([]limitBucket, limitBuckets)
	}
	return out
}

// take counts an answer to client. now is any clock in milliseconds.
func (l *limiter) take(client netip.Addr, large bool, now int64) permit {
	if l.answers == 0 && (l.large == 0 || !large) {
		return permitAll
	}
	b := &l.buckets[l.slot(client)]
	if b.last == 0 {
		b.answers, b.large = float32(l.answers), float32(l.large)
	} else if passed := float32(now-b.last) / 1000; passed > 0 {
		// A second's worth may be saved up.
		b.answers = min(float32(l.answers), b.answers+passed*float32(l.answers))
		b.large = min(float32(l.large), b.large+passed*float32(l.large))
	}
	b.last = now
	if l.answers > 0 {
		if b.answers < 1 {
			b.over++
			if b.over%slip == 0 {
				return permitTruncated
			}
			return permitNothing
		}
		b.answers--
	}
	if large && l.large != 0 {
		if b.large < 1 {
			return permitTruncated
		}
		b.large--
	}
	return permitAll
}

func (l *limiter) slot(client netip.Addr) int {
	var x uint64
	if client = client.Unmap(); client.Is4() {
		a := client.As4()
		x = uint64(a[0])<<16 | uint64(a[1])<<8 | uint64(a[2])
	} else {
		a := client.As16()
		for _, c := range a[:limitNet6/8] {
			x = x<<8 | uint64(c)
		}
		x |= 1 << 63
	}
	x = (x ^ l.seed) * 0x9e3779b97f4a7c15
	x ^= x >> 32
	return int(x * 0xbf58476d1ce4e5b9 >> 50)
}

// millis is a clock for limiters.
func millis(t time.Time) int64 { return t.UnixMilli() }
