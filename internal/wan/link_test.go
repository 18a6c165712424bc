package wan

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sink records what a link delivers and when.
type sink struct {
	began time.Time
	fail  error
	mu    sync.Mutex
	delivered
}

type delivered struct {
	sequence []uint32
	sizes    []int
	at       []time.Duration
}

func (s *sink) sofar() delivered {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivered
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.sequence = append(s.sequence, binary.BigEndian.Uint32(b))
	s.sizes = append(s.sizes, len(b))
	s.at = append(s.at, time.Since(s.began))
	return len(b), nil
}

// onLink runs fn on a link in a bubble of fake time.
func onLink(t *testing.T, l Link, limit int64, fn func(t *testing.T, link *link, send func(seq, size int), got *sink)) {
	t.Helper()
	require.NoError(t, l.Validate())
	synctest.Test(t, func(t *testing.T) {
		got := &sink{began: time.Now()}
		pool := newBuffers()
		link := newLink(got, pool, limit, [2]uint64{1, 2})
		link.set(l)
		var running sync.WaitGroup
		running.Go(link.run)
		buf := pool.get(largeBuffer)
		fn(t, link, func(seq, size int) {
			binary.BigEndian.PutUint32(buf.bytes, uint32(seq))
			if link.send(buf, size) {
				buf = pool.get(largeBuffer)
			}
		}, got)
		close(link.stop)
		running.Wait()
	})
}

func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLinkDelaysExactly(t *testing.T) {
	onLink(t, Link{Delay: 45 * time.Millisecond}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
		send(1, 100)
		settle(10 * time.Millisecond)
		send(2, MTU)
		settle(45*time.Millisecond - 1)
		require.Equal(t, []time.Duration{45 * time.Millisecond}, got.sofar().at)
		settle(1)
		require.Equal(t, []time.Duration{45 * time.Millisecond, 55 * time.Millisecond}, got.sofar().at)
		require.Equal(t, []int{100, MTU}, got.sofar().sizes)
		require.Zero(t, l.queueing.Load())
	})
}

func TestJitterNeverReorders(t *testing.T) {
	jittery := Link{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond}
	onLink(t, jittery, DefaultQueueBytes, func(t *testing.T, _ *link, send func(int, int), got *sink) {
		const packets = 2000
		for i := range packets {
			send(i, 60)
			settle(time.Duration(i%7) * time.Millisecond)
		}
		settle(time.Second)
		require.Len(t, got.sofar().sequence, packets)
		least, most, sent := time.Hour, time.Duration(0), time.Duration(0)
		for i, seq := range got.sofar().sequence {
			require.Equal(t, uint32(i), seq)
			least, most = min(least, got.sofar().at[i]-sent), max(most, got.sofar().at[i]-sent)
			sent += time.Duration(i%7) * time.Millisecond
		}
		require.GreaterOrEqual(t, least, jittery.Delay)
		require.LessOrEqual(t, most, jittery.Delay+jittery.Jitter)
		require.Greater(t, most-least, jittery.Jitter/2)
	})
}

func TestShorterDelayKeepsOrder(t *testing.T) {
	onLink(t, Link{Delay: time.Second}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
		send(1, 60)
		l.set(Link{})
		send(2, 60)
		settle(time.Second)
		require.Equal(t, []uint32{1, 2}, got.sofar().sequence)
	})
}

func TestLossIsAsSet(t *testing.T) {
	for _, loss := range []float64{0.01, 0.2, 1} {
		onLink(t, Link{Loss: loss}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
			const packets = 10000
			for i := range packets {
				send(i, 60)
				synctest.Wait()
			}
			// Five standard deviations of a binomial distribution.
			require.InDelta(t, packets*loss, l.counts.lost.Load(), 5*math.Sqrt(packets*loss*(1-loss)))
			require.Equal(t, packets, len(got.sofar().sequence)+int(l.counts.lost.Load()))
		})
	}
}

func TestSilenceTakesWhatIsOnItsWay(t *testing.T) {
	onLink(t, Link{Delay: 50 * time.Millisecond}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
		send(1, 60)
		settle(20 * time.Millisecond)
		l.set(Link{Delay: 50 * time.Millisecond, Silent: true})
		send(2, 60)
		settle(time.Second)
		require.Empty(t, got.sofar().sequence)
		require.EqualValues(t, 2, l.counts.silent.Load())
		l.set(Link{Delay: 50 * time.Millisecond})
		send(3, 60)
		settle(50 * time.Millisecond)
		require.Equal(t, []uint32{3}, got.sofar().sequence)
	})
}

func TestRateSpacesPacketsAndDropsBeyondTheBacklog(t *testing.T) {
	// 1000 bytes at 80 kbit/s take 100 ms.
	onLink(t, Link{Rate: 80_000, Delay: 5 * time.Millisecond}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
		for i := range 10 {
			send(i, 1000)
		}
		settle(time.Second)
		const accepted = int(maxBacklog/(100*time.Millisecond)) + 1
		require.Len(t, got.sofar().at, accepted)
		for i, at := range got.sofar().at {
			require.Equal(t, time.Duration(i+1)*100*time.Millisecond+5*time.Millisecond, at)
		}
		require.EqualValues(t, 10-accepted, l.counts.overflow.Load())
	})
}

func TestQueueIsBounded(t *testing.T) {
	onLink(t, Link{Delay: time.Second}, 3*largeBuffer, func(t *testing.T, l *link, send func(int, int), got *sink) {
		for i := range 5 {
			send(i, MTU)
		}
		require.EqualValues(t, 3*largeBuffer, l.queueing.Load())
		require.EqualValues(t, 2, l.counts.overflow.Load())
		settle(time.Second)
		require.Equal(t, []uint32{0, 1, 2}, got.sofar().sequence, "the tail is dropped")
		for i := range 3 * largeBuffer / smallBuffer {
			send(i, smallBuffer)
		}
		require.EqualValues(t, 2, l.counts.overflow.Load(), "small packets take small buffers")
		send(0, 60)
		require.EqualValues(t, 3, l.counts.overflow.Load())
	})
}

func TestRefusedPacketsAreCounted(t *testing.T) {
	onLink(t, Link{}, DefaultQueueBytes, func(t *testing.T, l *link, send func(int, int), got *sink) {
		got.fail = errors.New("device is down")
		send(1, 60)
		synctest.Wait()
		require.EqualValues(t, 1, l.counts.refused.Load())
		require.Zero(t, l.counts.packets.Load())
		require.Zero(t, l.queueing.Load())
	})
}

func TestLinkDoesNotAllocatePerPacket(t *testing.T) {
	pool := newBuffers()
	l := newLink(&discard{}, pool, DefaultQueueBytes, [2]uint64{1, 2})
	buf, batch := pool.get(largeBuffer), make([]packet, batchSize)
	for _, size := range []int{60, MTU} {
		got := testing.AllocsPerRun(1000, func() {
			if l.send(buf, size) {
				buf = pool.get(largeBuffer)
			}
			k, _, _ := l.take(batch)
			l.deliver(batch[:k])
		})
		// The race detector makes pools forget at random.
		if !raceEnabled {
			require.Zero(t, got, "size %d", size)
		}
	}
}

type discard struct{}

func (*discard) Write(b []byte) (int, error) { return len(b), nil }

func TestLinkValidateNamesEveryProblem(t *testing.T) {
	err := Link{Delay: -1, Loss: math.NaN(), Rate: -1}.Validate()
	for _, want := range []string{"delay", "loss", "rate"} {
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, Link{Delay: 9 * time.Second, Jitter: 2 * time.Second}.Validate(), "10s together")
}

func FuzzAddresses(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, minHeader))
	packet := make([]byte, 24)
	copy(packet, []byte{0x45, 0, 0, 24})
	copy(packet[12:], []byte{198, 18, 1, 1, 198, 18, 2, 1})
	f.Add(packet)
	f.Fuzz(func(t *testing.T, b []byte) {
		source, destination, ok := addresses(b)
		require.Equal(t, ok, source.Is4())
		require.Equal(t, ok, destination.Is4())
		if ok {
			require.Equal(t, [4]byte(b[12:16]), source.As4())
		}
	})
}

func TestAddresses(t *testing.T) {
	valid := make([]byte, 28)
	copy(valid, []byte{0x45, 0, 0, 28})
	copy(valid[12:], []byte{198, 18, 1, 1, 198, 18, 2, 1})
	source, destination, ok := addresses(valid)
	require.True(t, ok)
	require.Equal(t, netip.MustParseAddr("198.18.1.1"), source)
	require.Equal(t, netip.MustParseAddr("198.18.2.1"), destination)
	for name, edit := range map[string]func(b []byte) []byte{
		"version 6":       func(b []byte) []byte { b[0] = 0x60; return b },
		"cut":             func(b []byte) []byte { return b[:27] },
		"longer than say": func(b []byte) []byte { return append(b, 0) },
		"short":           func(b []byte) []byte { return b[:19] },
	} {
		_, _, ok := addresses(edit(append([]byte(nil), valid...)))
		require.False(t, ok, name)
	}
}
