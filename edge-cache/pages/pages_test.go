package pages

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type body struct {
	slot  *Slot
	bytes []byte
}

func newBody(seed byte, n int) body {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return body{new(Slot), b}
}

// copyOf asks until there is a copy.
func copyOf(t *testing.T, w *Window, b body) (c *Copy) {
	t.Helper()
	require.Eventually(t, func() bool { c = w.Get(b.slot, b.bytes); return c != nil }, 10*time.Second, time.Millisecond)
	return c
}

func content(t *testing.T, c *Copy) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(c.file, 0, 1<<40))
	require.NoError(t, err)
	return b
}

func TestCopies(t *testing.T) {
	w := Open(1<<20, func(err error) { t.Error(err) })
	defer w.Close()
	a := newBody(1, 200<<10)
	require.Nil(t, w.Get(a.slot, a.bytes), "asked for once")
	c := copyOf(t, w, a)
	require.Equal(t, a.bytes, content(t, c))
	require.EqualValues(t, len(a.bytes), w.Bytes())
	_, err := c.file.WriteAt([]byte("x"), 0)
	require.Error(t, err, "it is sealed")
	require.Error(t, c.file.Truncate(0))

	for _, b := range []body{newBody(2, MinSize-1), newBody(3, 300<<10)} {
		for range 5 {
			require.Nil(t, w.Get(b.slot, b.bytes), "too small, or more than a quarter")
		}
		require.False(t, b.slot.wanted.Load())
	}

	// Others take its place once it isn't asked for; who has it keeps it.
	for i := range byte(12) {
		b := newBody(10+i, 200<<10)
		copyOf(t, w, b).Release()
		require.LessOrEqual(t, w.Bytes(), int64(1<<20))
	}
	require.Nil(t, a.slot.copy.Load())
	require.Equal(t, a.bytes, content(t, c))
	c.Release()
	_, err = c.file.Stat()
	require.ErrorIs(t, err, os.ErrClosed)
}

// TestMostAskedStay: bodies that are asked for all the time stay, however many others come.
func TestMostAskedStay(t *testing.T) {
	w := Open(1<<20, func(err error) { t.Error(err) })
	defer w.Close()
	var hot []body
	for i := range byte(4) {
		hot = append(hot, newBody(i, 200<<10))
		copyOf(t, w, hot[i]).Release()
	}
	const hits = 3
	kept := 0
	for i := range 50 {
		for range hits {
			for _, b := range hot {
				if c := w.Get(b.slot, b.bytes); c != nil {
					kept++
					c.Release()
				}
			}
		}
		b := newBody(byte(100+i), 200<<10)
		for range 2 {
			if c := w.Get(b.slot, b.bytes); c != nil {
				c.Release()
			}
		}
		require.Eventually(t, func() bool { return !b.slot.wanted.Load() }, 10*time.Second, 100*time.Microsecond)
	}
	require.Greater(t, kept, 50*hits*len(hot)*9/10)
}

// TestAskedForInTurn: bodies that are asked for alike don't take each other's place.
func TestAskedForInTurn(t *testing.T) {
	w := Open(1<<20, func(err error) { t.Error(err) })
	defer w.Close()
	bodies := make([]body, 20)
	for i := range bodies {
		bodies[i] = newBody(byte(i), 200<<10)
	}
	made := map[*Copy]bool{}
	for range 50 {
		for _, b := range bodies {
			if c := w.Get(b.slot, b.bytes); c != nil {
				made[c] = true
				c.Release()
			}
			require.Eventually(t, func() bool { return !b.slot.wanted.Load() }, 10*time.Second, 10*time.Microsecond)
		}
	}
	require.Len(t, made, 5, "as many as there is room for")
}

func TestConcurrent(t *testing.T) {
	w := Open(1<<20, func(err error) { t.Error(err) })
	bodies := make([]body, 20)
	for i := range bodies {
		bodies[i] = newBody(byte(i), MinSize+i)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			p := make([]byte, MinSize+20)
			for range 2000 {
				b := bodies[r.IntN(len(bodies))]
				c := w.Get(b.slot, b.bytes)
				if c == nil {
					continue
				}
				n, _ := c.file.ReadAt(p, 0)
				if !bytes.Equal(p[:n], b.bytes) {
					t.Error("not the body's bytes")
				}
				c.Release()
			}
		})
	}
	wg.Wait()
	w.Close()
	require.Zero(t, w.Bytes())
	for _, b := range bodies {
		require.Nil(t, w.Get(b.slot, b.bytes))
	}
}
