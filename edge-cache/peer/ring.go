package peer

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// spread is how much more than the mean a peer may be asked at once (c of the
	// paper), and calm the number below which nobody is passed over.
	spread = 1.25
	calm   = 16
	// busy is the load from which a peer is left in peace, for as long as it was
	// told lately.
	busy    = 0.95
	busyFor = 2 * time.Second
)

// member is an edge of the ring, this one included.
type member struct {
	name string
	seed uint64
	// asking is how many objects are being fetched from it now.
	asking atomic.Int64
	load   atomic.Uint64 // bits
	told   atomic.Int64  // when, Unix milliseconds
}

func (m *member) tell(load float64, now time.Time) {
	m.load.Store(math.Float64bits(load))
	m.told.Store(now.UnixMilli())
}

func (m *member) busy(now time.Time) bool {
	return math.Float64frombits(m.load.Load()) > busy && now.UnixMilli()-m.told.Load() < busyFor.Milliseconds()
}

// ring orders members by key.
type ring struct{ members []*member }

func newRing(names []string) *ring {
	r := &ring{}
	for _, n := range names {
		r.members = append(r.members, &member{name: n, seed: xxhash.Sum64String(n)})
	}
	return r
}

// order returns the members in the order of who is to hold the key.
func (r *ring) order(key string) []*member {
	type scored struct {
		m     *member
		score uint64
	}
	k := xxhash.Sum64String(key)
	all := make([]scored, len(r.members))
	for i, m := range r.members {
		all[i] = scored{m, mix(k ^ m.seed)}
	}
	slices.SortFunc(all, func(a, b scored) int {
		if a.score > b.score {
			return -1
		}
		return 1
	})
	out := make([]*member, len(all))
	for i, s := range all {
		out[i] = s.m
	}
	return out
}

// mix is the finaliser of SplitMix64: every bit of x moves half of the result's.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// choose returns who is to be asked for the key, nil for the stores: the first in
// the order that has room, unless that is self or comes after it.
func (r *ring) choose(key, self string, now time.Time) *member {
	var total int64
	for _, m := range r.members {
		total += m.asking.Load()
	}
	limit := max(calm, int64(math.Ceil(spread*float64(total+1)/float64(len(r.members)))))
	for _, m := range r.order(key) {
		if m.name == self {
			return nil
		}
		if m.asking.Load() < limit && !m.busy(now) {
			return m
		}
	}
	return nil
}
