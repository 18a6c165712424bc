package feed

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fake struct{ c chan Event }

func (f fake) Next(ctx context.Context) (catalog.Event, uint64, error) {
	select {
	case e, ok := <-f.c:
		if !ok {
			return catalog.Event{}, 0, errors.New("lost")
		}
		return e.Event, e.Seq, nil
	case <-ctx.Done():
		return catalog.Event{}, 0, ctx.Err()
	}
}
func (fake) Stop() {}

func all(catalog.Event) bool { return true }

func ev(n int) Event { return Event{catalog.Event{Asset: "a"}, uint64(n)} }

func TestListenersThatComeBack(t *testing.T) {
	f := New(nil, slog.New(slog.DiscardHandler))
	_, seq, gap, err := f.Listen(0, all)
	require.NoError(t, err)
	require.Zero(t, seq)
	require.True(t, gap)
	for n := 11; n <= 20; n++ {
		f.publish(ev(n))
	}
	f.publish(ev(15)) // again, after a reconnection
	l, seq, gap, err := f.Listen(17, all)
	require.NoError(t, err)
	require.False(t, gap)
	require.EqualValues(t, 20, seq)
	for _, want := range []uint64{18, 19, 20} {
		require.Equal(t, want, (<-l.C()).Seq)
	}
	require.Empty(t, l.C())
	_, _, gap, _ = f.Listen(10, all)
	require.False(t, gap, "the first event known came right after")
	_, _, gap, _ = f.Listen(9, all)
	require.True(t, gap)
	_, _, gap, _ = f.Listen(21, all)
	require.True(t, gap, "a number of another stream")

	for n := 21; n < 21+3*remembered; n++ {
		f.publish(ev(n))
	}
	require.LessOrEqual(t, len(f.ring), remembered)
	require.Equal(t, f.ring[0].Seq-1, f.since)
	for range l.C() { // it didn't keep up, so it was ended
	}
	_, _, gap, _ = f.Listen(f.newest-pending-1, all)
	require.True(t, gap, "more than a listener may be behind")
	l, _, gap, _ = f.Listen(f.newest-pending, all)
	require.False(t, gap)
	l.Close()
	l.Close()
}

func TestReaderGoesOnWhereItWas(t *testing.T) {
	first, second := fake{make(chan Event)}, fake{make(chan Event)}
	afters := make(chan uint64, 3)
	subs := []Subscription{first, second}
	f := New(func(_ context.Context, after uint64) (Subscription, error) {
		afters <- after
		s := subs[0]
		subs = subs[1:]
		return s, nil
	}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	l, _, _, err := f.Listen(0, func(e catalog.Event) bool { return e.Asset == "a" })
	require.NoError(t, err)
	require.Zero(t, <-afters)
	first.c <- ev(5)
	first.c <- Event{catalog.Event{Asset: "b"}, 6}
	close(first.c)
	require.EqualValues(t, 6, <-afters)
	second.c <- ev(7)
	require.EqualValues(t, 5, (<-l.C()).Seq)
	require.EqualValues(t, 7, (<-l.C()).Seq)
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("it doesn't stop")
	}
	_, ok := <-l.C()
	require.False(t, ok)
	_, _, _, err = f.Listen(0, all)
	require.ErrorIs(t, err, ErrClosed)
}
