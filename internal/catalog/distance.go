package catalog

import "time"

// FarRTT is the round trip to the leader from which on it counts as far away.
const FarRTT = 30 * time.Millisecond

// maxRTTs is how many round trips a Distance remembers.
const maxRTTs = 32

// Distance is how far the leader is, by how long the last questions to it took. The
// shortest of them tells: load makes some of them slow, distance all. The zero
// value knows of none. Not for concurrent use.
type Distance struct {
	rtts [maxRTTs]time.Duration
	n    int
}

// Note adds how long a question took.
func (d *Distance) Note(took time.Duration) {
	d.rtts[d.n%maxRTTs] = took
	d.n++
}

// Far reports whether the shortest of the last questions, at most last of them,
// took longer than FarRTT; false while there have been fewer than least.
func (d *Distance) Far(last, least int) bool {
	n := min(d.n, last, maxRTTs)
	if n < least {
		return false
	}
	for i := 1; i <= n; i++ {
		if d.rtts[(d.n-i)%maxRTTs] <= FarRTT {
			return false
		}
	}
	return true
}
