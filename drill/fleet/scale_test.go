package fleet_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestHundreds: what three hundred viewers cost.
func TestHundreds(t *testing.T) {
	testenv.Long(t)
	before := runtime.NumGoroutine()
	w := watch(t, drilltest.Defects{}, fleet.Config{Viewers: []int{100, 100, 100}, Over: 5 * time.Second})
	time.Sleep(10 * time.Second)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	stacks := make([]byte, 64<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	servers := strings.Count(string(stacks), "net/http.(*conn).serve(")
	ours := runtime.NumGoroutine() - before - 2*servers
	samples := w.rec.Samples()
	last := samples[len(samples)-1]
	testenv.Figure(t, "300 viewers", "%d playing, %d goroutines without the servers', %d MiB heap with the servers", last.Playing, ours, m.HeapInuse>>20)
	require.Less(t, ours, 300*10)
	require.Less(t, m.HeapInuse, uint64(256<<20))
}
