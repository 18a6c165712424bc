package wan

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sink records what a link delivers and when.
type sink struct {
	now      time.Duration
	fail     error
	sequence []uint32
	sizes    []int
	at       []time.Duration
}

func (s *sink) write(b []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.sequence = append(s.sequence, binary.BigEndian.Uint32(b))
	s.sizes = append(s.sizes, len(b))
	s.at = append(s.at, s.now)
	return nil
}

// bench is a link and a clock that only pass moves.
type bench struct {
	*link
	buf *buffer
	got *sink
}

func onLink(t *testing.T, l Link, limit int64) *bench {
	t.Helper()
	require.NoError(t, l.Validate())
	pool, got := newBuffers(), &sink{}
	b := &bench{newLink(got, pool, limit, [2]uint64{1, 2}), pool.get(largeBuffer), got}
	b.condition = l
	return b
}

func (b *bench) send(seq, size int) {
	binary.BigEndian.PutUint32(b.buf.bytes, uint32(seq))
	if b.link.send(b.got.now, b.buf, size) {
		b.buf = b.buffers.get(largeBuffer)
	}
}

// pass lets time pass, and delivers everything when it is due.
func (b *bench) pass(d time.Duration) {
	for end := b.got.now + d; ; {
		next, ok := b.deliver(b.got.now)
		if !ok || next > end {
			b.got.now = end
			return
		}
		b.got.now = next
	}
}

func TestLinkDelaysExactly(t *testing.T) {
	l := onLink(t, Link{Delay: 45 * time.Millisecond}, DefaultQueueBytes)
	l.send(1, 100)
	l.pass(10 * time.Millisecond)
	l.send(2, MTU)
	l.pass(45*time.Millisecond - 1)
	require.Equal(t, []time.Duration{45 * time.Millisecond}, l.got.at)
	l.pass(1)
	require.Equal(t, []time.Duration{45 * time.Millisecond, 55 * time.Millisecond}, l.got.at)
	require.Equal(t, []int{100, MTU}, l.got.sizes)
	require.Zero(t, l.queueing)
}

func TestJitterNeverReorders(t *testing.T) {
	jittery := Link{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond}
	l := onLink(t, jittery, DefaultQueueBytes)
	const packets = 2000
	for i := range packets {
		l.send(i, 60)
		l.pass(time.Duration(i%7) * time.Millisecond)
	}
	l.pass(time.Second)
	require.Len(t, l.got.sequence, packets)
	least, most, sent := time.Hour, time.Duration(0), time.Duration(0)
	for i, seq := range l.got.sequence {
		require.Equal(t, uint32(i), seq)
		least, most = min(least, l.got.at[i]-sent), max(most, l.got.at[i]-sent)
		sent += time.Duration(i%7) * time.Millisecond
	}
	require.GreaterOrEqual(t, least, jittery.Delay)
	require.LessOrEqual(t, most, jittery.Delay+jittery.Jitter)
	require.Greater(t, most-least, jittery.Jitter/2)
}

func TestShorterDelayKeepsOrder(t *testing.T) {
	l := onLink(t, Link{Delay: time.Second}, DefaultQueueBytes)
	l.send(1, 60)
	l.change(Link{}, l.got.now)
	l.send(2, 60)
	l.pass(time.Second)
	require.Equal(t, []uint32{1, 2}, l.got.sequence)
}

// A packet that a narrow line would take a minute for holds up nobody once the line is
// wide again, nor longer than its backlog where it is still narrow.
func TestALinkThatIsHealedIsFast(t *testing.T) {
	for _, test := range []struct {
		healed Link
		within time.Duration
	}{
		{Link{}, 0},
		{Link{Delay: 45 * time.Millisecond, Jitter: 5 * time.Millisecond}, 50 * time.Millisecond},
		{Link{Rate: 1e9}, maxBacklog + time.Millisecond},
	} {
		l := onLink(t, Link{Delay: 5 * time.Second, Rate: 8000}, DefaultQueueBytes)
		l.send(1, 60)
		l.send(2, MTU)
		l.pass(20 * time.Millisecond)
		require.Empty(t, l.got.sequence)
		l.change(test.healed, l.got.now)
		l.send(3, 60)
		l.pass(test.within)
		require.Equal(t, []uint32{1, 2, 3}, l.got.sequence, "%+v", test.healed)
		l.send(4, 60)
		l.pass(test.within)
		require.Equal(t, []uint32{1, 2, 3, 4}, l.got.sequence, "%+v", test.healed)
	}
	// Silence alone changes nothing of when packets are due.
	l := onLink(t, Link{Delay: time.Second}, DefaultQueueBytes)
	l.send(1, 60)
	l.change(Link{Delay: time.Second, Silent: true}, l.got.now)
	l.change(Link{Delay: time.Second}, l.got.now)
	l.pass(time.Second)
	require.Equal(t, []time.Duration{time.Second}, l.got.at)
}

func TestLossIsAsSet(t *testing.T) {
	for _, loss := range []float64{0.01, 0.2, 1} {
		l := onLink(t, Link{Loss: loss}, DefaultQueueBytes)
		const packets = 10000
		for i := range packets {
			l.send(i, 60)
			l.pass(0)
		}
		// Five standard deviations of a binomial distribution.
		require.InDelta(t, packets*loss, l.counts.lost, 5*math.Sqrt(packets*loss*(1-loss)))
		require.Equal(t, packets, len(l.got.sequence)+int(l.counts.lost))
	}
}

func TestSilenceTakesWhatIsOnItsWay(t *testing.T) {
	l := onLink(t, Link{Delay: 50 * time.Millisecond}, DefaultQueueBytes)
	l.send(1, 60)
	l.pass(20 * time.Millisecond)
	l.condition = Link{Delay: 50 * time.Millisecond, Silent: true}
	l.send(2, 60)
	l.pass(time.Second)
	require.Empty(t, l.got.sequence)
	require.EqualValues(t, 2, l.counts.silent)
	l.condition = Link{Delay: 50 * time.Millisecond}
	l.send(3, 60)
	l.pass(50 * time.Millisecond)
	require.Equal(t, []uint32{3}, l.got.sequence)
}

func TestRateSpacesPacketsAndDropsBeyondTheBacklog(t *testing.T) {
	// 1000 bytes at 80 kbit/s take 100 ms.
	l := onLink(t, Link{Rate: 80_000, Delay: 5 * time.Millisecond}, DefaultQueueBytes)
	for i := range 10 {
		l.send(i, 1000)
	}
	l.pass(time.Second)
	const accepted = int(maxBacklog/(100*time.Millisecond)) + 1
	require.Len(t, l.got.at, accepted)
	for i, at := range l.got.at {
		require.Equal(t, time.Duration(i+1)*100*time.Millisecond+5*time.Millisecond, at)
	}
	require.EqualValues(t, 10-accepted, l.counts.overflow)
}

func TestQueueIsBounded(t *testing.T) {
	l := onLink(t, Link{Delay: time.Second}, 3*largeBuffer)
	for i := range 5 {
		l.send(i, MTU)
	}
	require.EqualValues(t, 3*largeBuffer, l.queueing)
	require.EqualValues(t, 2, l.counts.overflow)
	l.pass(time.Second)
	require.Equal(t, []uint32{0, 1, 2}, l.got.sequence, "the tail is dropped")
	for i := range 3 * largeBuffer / smallBuffer {
		l.send(i, smallBuffer)
	}
	require.EqualValues(t, 2, l.counts.overflow, "small packets take small buffers")
	l.send(0, 60)
	require.EqualValues(t, 3, l.counts.overflow)
}

func TestRefusedPacketsAreCounted(t *testing.T) {
	l := onLink(t, Link{}, DefaultQueueBytes)
	l.got.fail = errors.New("device is down")
	l.send(1, 60)
	l.pass(0)
	require.EqualValues(t, 1, l.counts.refused)
	require.Zero(t, l.counts.packets)
	require.Zero(t, l.queueing)
}

func TestLinkDoesNotAllocatePerPacket(t *testing.T) {
	pool := newBuffers()
	l := newLink(discard{}, pool, DefaultQueueBytes, [2]uint64{1, 2})
	buf := pool.get(largeBuffer)
	for _, size := range []int{60, MTU} {
		got := testing.AllocsPerRun(1000, func() {
			if l.send(0, buf, size) {
				buf = pool.get(largeBuffer)
			}
			l.deliver(0)
		})
		// The race detector makes pools forget at random.
		if !raceEnabled {
			require.Zero(t, got, "size %d", size)
		}
	}
}

type discard struct{}

func (discard) write([]byte) error { return nil }

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
