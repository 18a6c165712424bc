package health

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// TestACutLineMisleadsNobody: a router whose line was cut names no region lost to
// whoever asks once it is back, from the first moment.
func TestACutLineMisleadsNobody(t *testing.T) {
	trials, longest := 20, time.Duration(0)
	if testenv.IsLong() {
		trials = 300
	}
	for i := range trials {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, uint64(i))
			r := rand.New(rand.NewPCG(uint64(i), 5))
			time.Sleep(20*time.Second + time.Duration(r.Int64N(int64(time.Second))))
			at := i % len(w.regions)
			w.set(func() { w.cut = []string{w.regions[at]} })
			time.Sleep(5*time.Second + time.Duration(r.Int64N(int64(20*time.Second))))
			require.NotNil(t, w.boards[at].Load().Doubt, "trial %d", i)
			w.set(func() { w.cut = nil })
			var asking sync.WaitGroup
			for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
				asking.Go(func() {
					after, asked := time.Since(began), time.Now()
					w.routers[at].Reached()
					s := w.boards[at].Settled(t.Context())
					w.set(func() { longest = max(longest, time.Since(asked)) })
					for _, g := range s.Regions {
						require.True(t, g.Up(), "trial %d: %v after its line is back %s says %s is lost: %+v", i, after, w.regions[at], g.Name, g.Edges)
					}
				})
			}
			asking.Wait()
			require.Nil(t, w.boards[at].Load().Doubt)
			require.Empty(t, w.wrong())
		})
	}
	testenv.Figure(t, "health, line", "no wrong answer after %d lines were back; the longest wait %v", trials, longest)
}

// TestTheLastRegionAnswers: where all others are really lost the last one says so
// after a moment, and finds each as it returns.
func TestTheLastRegionAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 1)
		time.Sleep(20 * time.Second)
		last, board, router := w.regions[0], w.boards[0], w.routers[0]
		w.set(func() { w.cut = w.regions[1:] })
		time.Sleep(30 * time.Second)
		require.NotNil(t, board.Load().Doubt, "nobody has asked")
		for i := range 3 {
			asked := time.Now()
			router.Reached()
			for _, g := range board.Settled(t.Context()).Regions {
				require.Equal(t, g.Name == last, g.Up(), g.Name)
			}
			if i == 0 {
				require.Less(t, time.Since(asked), time.Second)
			} else {
				require.Zero(t, time.Since(asked), "it knows")
			}
			time.Sleep(time.Second)
		}
		w.set(func() { w.cut = w.regions[2:] })
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			router.Reached()
			s := board.Settled(t.Context())
			require.False(t, s.Region(w.regions[2]).Up(), "it is lost")
			if s.Region(w.regions[1]).Up() {
				break
			}
			require.Less(t, time.Since(began), 5*time.Second)
		}
		time.Sleep(10 * time.Second)
		w.set(func() { w.cut = w.regions[1:] })
		time.Sleep(10 * time.Second)
		require.Nil(t, board.Load().Doubt, "they weren't lost at once")
		require.False(t, board.Load().Region(w.regions[1]).Up())
	})
}
