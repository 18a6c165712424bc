package jobs

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/internal/catalog"
)

// Whatever the sizes, owners with a backlog get the same number of frames, but
// for about one task each; and each owner's tasks go in their order.
func TestFairShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := rapid.IntRange(1, 5).Draw(t, "owners")
		backlog := map[string][]catalog.WaitingTask{}
		largest := int64(quantum)
		for o := range owners {
			name := fmt.Sprintf("o%d", o)
			size := rapid.Int64Range(0, 900).Draw(t, "frames")
			largest = max(largest, size)
			for n := range 160 {
				backlog[name] = append(backlog[name], catalog.WaitingTask{ID: fmt.Sprintf("%s/%04d", name, n), Owner: name, Frames: size})
			}
		}
		var f fair
		share := map[string]int64{}
		for range 30 {
			n := rapid.IntRange(-1, 5).Draw(t, "window")
			var waiting []catalog.WaitingTask
			for o := range owners {
				name := fmt.Sprintf("o%d", o)
				waiting = append(waiting, backlog[name][:5]...)
			}
			picked := f.pick(waiting, n)
			if len(picked) != max(0, n) {
				t.Fatalf("picked %d of %d", len(picked), n)
			}
			for _, p := range picked {
				if p.ID != backlog[p.Owner][0].ID {
					t.Fatalf("%s goes before %s", p.ID, backlog[p.Owner][0].ID)
				}
				backlog[p.Owner] = backlog[p.Owner][1:]
				share[p.Owner] += cost(p)
			}
		}
		for a := range owners {
			for b := range owners {
				if d := share[fmt.Sprintf("o%d", a)] - share[fmt.Sprintf("o%d", b)]; d > 2*(largest+quantum) {
					t.Fatalf("shares %v differ by %d, largest task %d", share, d, largest)
				}
			}
		}
	})
}

func TestANewOwnerWaitsForNobodysBacklog(t *testing.T) {
	var f fair
	var waiting []catalog.WaitingTask
	for n := range 20 {
		waiting = append(waiting, catalog.WaitingTask{ID: fmt.Sprint("big", n), Owner: "big", Frames: 600})
	}
	f.pick(waiting, 4)
	waiting = append(waiting[4:], catalog.WaitingTask{ID: "small", Owner: "small", Frames: 60})
	require.Equal(t, "small", f.pick(waiting, 2)[0].ID)
}

func TestSubjects(t *testing.T) {
	for want, task := range map[string]catalog.WaitingTask{
		"jobs.first.us.any":    {Region: "us"},
		"jobs.first.ap.pinned": {Region: "ap", Pinned: []string{"us", "ap"}},
		"jobs.first.us.pinned": {Region: "ap", Pinned: []string{"us", "ap"}, Dispatch: 1},
		"jobs.first.eu.pinned": {Region: "us", Pinned: []string{"eu"}, Dispatch: 3},
	} {
		require.Equal(t, want, lane{catalog.First, pinnedRegion(task)}.subject(task.Region))
	}
}

func TestSlots(t *testing.T) {
	s := newSlots(2)
	require.True(t, s.take(catalog.Ladder))
	require.False(t, s.take(catalog.Extra), "one is kept for first")
	require.True(t, s.take(catalog.First))
	require.False(t, s.take(catalog.First))
	s.release(catalog.Ladder)
	require.True(t, s.take(catalog.First), "first may use all")
	require.False(t, s.take(catalog.Ladder))
	s = newSlots(4)
	require.True(t, s.take(catalog.Extra))
	require.False(t, s.take(catalog.Extra), "one is kept for ladder")
	require.True(t, s.take(catalog.Ladder))
	require.False(t, s.take(catalog.Ladder), "two are kept for first")
	require.True(t, s.take(catalog.First))
	require.True(t, s.take(catalog.First))
	require.False(t, s.take(catalog.First))
	s = newSlots(1)
	require.True(t, s.take(catalog.Ladder))
	require.False(t, s.take(catalog.First))
}

// A task that drains makes room for the next, but not for any number of them.
func TestDrainingSlots(t *testing.T) {
	s := newSlots(1)
	var held []*slot
	for range 2 {
		require.True(t, s.take(catalog.Ladder))
		require.False(t, s.take(catalog.Ladder))
		x := &slot{of: s, class: catalog.Ladder}
		held = append(held, x)
		x.drain()
		x.drain()
	}
	require.False(t, s.take(catalog.Ladder), "one drains already, the second keeps its slot")
	held[0].release()
	held[1].drain()
	require.True(t, s.take(catalog.Ladder))
	held[1].release()
	held[1].release()
	s.release(catalog.Ladder)
	require.Equal(t, [2]int{0, 0}, [2]int{s.used[catalog.Ladder], s.draining})
}
