package playback

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNobodyWaitsForTheNextLook: an asset that is asked for all the time is fresh all
// the time, and one look at a time is begun for it.
func TestNobodyWaitsForTheNextLook(t *testing.T) {
	end := time.Unix(1_700_000_000, 0)
	e := &entry{record: Record{N: 1}, ownNext: end}
	at := func(d time.Duration, fresh, renew bool) {
		t.Helper()
		r, f, n := e.answers(end.Add(d))
		require.EqualValues(t, 1, r.N)
		require.Equal(t, [2]bool{fresh, renew}, [2]bool{f, n})
	}
	at(-ahead-1, true, false)
	at(-ahead, true, true)
	at(-1, true, false)
	at(0, true, false) // it hasn't ended: what is known has to do
	at(pause-1, true, false)
	at(2*pause, true, false)
	e.renews = false // it has ended in an error
	at(3*pause, false, false)

	// Nobody asked in time: the next one waits for the look.
	e = &entry{record: Record{N: 1}, ownNext: end}
	at(0, false, false)
	// That there is no asset is looked up again, not renewed.
	e = &entry{ownNext: end}
	_, fresh, renew := e.answers(end.Add(-1))
	require.Equal(t, [2]bool{true, false}, [2]bool{fresh, renew})
}
