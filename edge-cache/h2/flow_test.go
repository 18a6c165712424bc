package h2

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

func window(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

// TestFlowControl: bodies obey both windows, and changes of the initial one.
func TestFlowControl(t *testing.T) {
	r := start(t, config)
	for _, path := range []string{"/100000", "/100001"} {
		n := 100_000 + int(path[len(path)-1]-'0')
		w := r.dial(t, window(1000))
		w.headers(1, true, get(path)...)
		w.read(func(s *seen) bool { return s.body[1] == 1000 })
		// A smaller window is owed first (RFC 9113 section 6.9.2).
		require.NoError(t, w.f.WriteSettings(window(400)))
		require.NoError(t, w.f.WriteWindowUpdate(1, 500))
		require.NoError(t, w.f.WritePing(false, [8]byte{}))
		s := w.read(func(s *seen) bool { return s.pings == 1 })
		require.Zero(t, s.body[1])
		require.NoError(t, w.f.WriteWindowUpdate(1, 101))
		w.read(func(s *seen) bool { return s.body[1] == 1 })
		require.NoError(t, w.f.WriteSettings(window(1<<20)))
		// The connection's is what it was at first.
		s = w.read(func(s *seen) bool { return s.body[1] == defaultWindow-1001 })
		require.False(t, s.ended[1])
		require.NoError(t, w.f.WriteWindowUpdate(0, 1<<20))
		s = w.read(ended(1))
		require.Equal(t, n-defaultWindow, s.body[1])
	}
}

// TestTurns: a large body doesn't hold up a small one, nor one that is less urgent.
func TestTurns(t *testing.T) {
	r := start(t, config)
	w := r.dial(t, window(8<<20)) // half of the first fits, so it can't end
	require.NoError(t, w.f.WriteWindowUpdate(0, 64<<20))
	w.headers(1, true, get("/16777216")...)
	w.read(func(s *seen) bool { return s.body[1] > 0 })
	w.headers(3, true, get("/20000")...)
	w.headers(5, true, get("/20001")...)
	w.headers(7, true, get("/2000000", "priority", "u=1")...)
	s := w.read(func(s *seen) bool { return s.ended[3] && s.ended[5] && s.ended[7] })
	require.False(t, s.ended[1], "it was held up by all of the first")
	// Once stream 7 had begun, nothing came between.
	first := -1
	for i, id := range s.order {
		if id == 7 {
			if first >= 0 {
				require.Equal(t, uint32(7), s.order[i-1])
			}
			first = i
		}
	}
	require.NoError(t, w.f.WriteRSTStream(1, http2.ErrCodeCancel))
	w.headers(9, true, get("/2")...)
	w.read(ended(9))
	// The responder is told once all has been sent.
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Contains(r.errs, errReset)
	}, 5*time.Second, time.Millisecond)
}

// TestContentIsGivenBack: windows for content open again as it is read.
func TestContentIsGivenBack(t *testing.T) {
	r := start(t, config)
	w := r.dial(t, window(1<<20))
	require.NoError(t, w.f.WriteWindowUpdate(0, 1<<20))
	w.headers(1, false, post("/echo")...)
	left, sent := int64(streamWindow), 0
	for sent < 300_000 {
		n := min(int64(maxFrame), left)
		if n == 0 {
			s := w.read(func(s *seen) bool { return s.grew[1] > 0 })
			left += int64(s.grew[1])
			continue
		}
		require.NoError(t, w.f.WriteData(1, false, bodyOf(int(n))))
		left, sent = left-n, sent+int(n)
	}
	require.NoError(t, w.f.WriteData(1, true, nil))
	w.read(ended(1))
}

// TestContextEnds with the request's stream, and with its connection.
func TestContextEnds(t *testing.T) {
	r := start(t, config)
	w := r.dial(t)
	w.headers(1, true, get("/wait")...)
	w.read(func(s *seen) bool { return s.status[1] == "200" })
	require.NoError(t, w.f.WriteRSTStream(1, http2.ErrCodeCancel))
	require.ErrorIs(t, <-r.aborted, context.Canceled)
	w.headers(3, true, get("/wait")...)
	w.read(func(s *seen) bool { return s.status[3] == "200" })
	require.NoError(t, w.c.Close())
	require.ErrorIs(t, <-r.aborted, context.Canceled)
}

// TestFloods: frames that bring nothing end the connection.
func TestFloods(t *testing.T) {
	r := start(t, config)
	for name, one := range map[string]func(w *raw, i uint32) error{
		"PING":     func(w *raw, _ uint32) error { return w.f.WritePing(false, [8]byte{}) },
		"SETTINGS": func(w *raw, _ uint32) error { return w.f.WriteSettings() },
		"PRIORITY": func(w *raw, _ uint32) error { return w.f.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"unknown":  func(w *raw, _ uint32) error { return w.f.WriteRawFrame(0xee, 0, 0, nil) },
		"rapid reset": func(w *raw, i uint32) error {
			err := w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1 + 2*i, BlockFragment: w.block(get("/hold")...), EndStream: true, EndHeaders: true})
			return errors.Join(err, w.f.WriteRSTStream(1+2*i, http2.ErrCodeCancel))
		},
		"empty DATA": func(w *raw, i uint32) error {
			if i == 0 {
				return w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(post("/echo")...), EndHeaders: true})
			}
			return w.f.WriteData(1, false, nil)
		},
		"windows of a byte": func(w *raw, i uint32) error {
			if i == 0 {
				return w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(get("/16777216")...), EndStream: true, EndHeaders: true})
			}
			return w.f.WriteWindowUpdate(1, 1)
		},
		"malformed": func(w *raw, i uint32) error {
			return w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1 + 2*i, BlockFragment: w.block(get("/2", "te", "x")...), EndStream: true, EndHeaders: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := r.dial(t, window(0))
			wrote := make(chan error, 1)
			go func() {
				for i := range uint32(100_000) {
					if err := one(w, i); err != nil {
						wrote <- err
						return
					}
				}
				wrote <- nil
			}()
			var s seen
			for {
				f, err := w.f.ReadFrame()
				if err != nil {
					break // where the flood goes on after the end, the end may be a reset
				}
				if g, ok := f.(*http2.GoAwayFrame); ok {
					s.away = append(s.away, *g)
				}
			}
			require.Error(t, <-wrote, "it went on")
			for _, g := range s.away {
				require.Equal(t, http2.ErrCodeEnhanceYourCalm, g.ErrCode)
			}
		})
	}
}

// TestManyStreams: further ones than agreed on are refused, and handlers of
// withdrawn requests count.
func TestManyStreams(t *testing.T) {
	r := start(t, config)
	w := r.dial(t)
	for i := range uint32(maxStreams) {
		w.headers(1+2*i, true, get("/hold")...)
	}
	w.headers(999, true, get("/hold")...)
	s := w.read(func(s *seen) bool { return s.reset[999] != 0 })
	require.Equal(t, http2.ErrCodeRefusedStream, s.reset[999])
	close(r.hold)
	w.read(func(s *seen) bool { return len(s.ended) == maxStreams })
	w.headers(1001, true, get("/3")...)
	w.read(ended(1001))
}

func TestLargeHeads(t *testing.T) {
	r := start(t, config)
	w := r.dial(t)
	long := strings.Repeat("~", 9000)
	w.headers(1, true, get("/2", "x", long)...)
	require.Equal(t, "200", w.read(ended(1)).status[1])
	b := w.block(get("/2", "x", long, "y", long)...)
	require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: b[:maxFrame], EndStream: true}))
	require.NoError(t, w.f.WriteContinuation(3, true, b[maxFrame:]))
	require.Equal(t, "431", w.read(ended(3)).status[3])
	// Small on the wire, large for who obeys it.
	w.headers(5, true, get("/2", "x", strings.Repeat("a", 4000))...)
	w.read(ended(5))
	bomb := get("/2")
	for range 1000 {
		bomb = append(bomb, "x", strings.Repeat("a", 4000))
	}
	w.headers(7, true, bomb...)
	require.Equal(t, "431", w.read(ended(7)).status[7])
	w.headers(9, true, get("/2")...)
	require.Equal(t, "200", w.read(ended(9)).status[9])
}

// TestHeaderTableSize: our table is as small as the client wants it.
func TestHeaderTableSize(t *testing.T) {
	r := start(t, config)
	for _, size := range []uint32{0, 100, 4096, 1 << 20} {
		w := r.dial(t)
		for i, s := range []uint32{4096, size, 200, size} {
			require.NoError(t, w.f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: s}))
			w.dec.SetAllowedMaxDynamicTableSize(s)
			for k, path := range []string{"/2", "/3", "/2", "/nowhere", "/4"} {
				id := uint32(1 + 20*i + 2*k)
				w.headers(id, true, get(path)...)
				w.read(ended(id))
			}
		}
	}
}

func TestTimes(t *testing.T) {
	cfg := config
	cfg.HeaderTimeout, cfg.IdleTimeout, cfg.WriteTimeout = time.Second, 2*time.Second, time.Second
	r := start(t, cfg)
	goneAfter := func(t *testing.T, w *raw, least time.Duration) *seen {
		s := w.read(never)
		require.GreaterOrEqual(t, time.Since(w.dialled), least)
		require.Less(t, time.Since(w.dialled), 10*time.Second)
		return s
	}
	for name, f := range map[string]func(t *testing.T){
		"a head that doesn't end": func(t *testing.T) {
			w := r.dial(t)
			w.mute = true
			b := w.block(get("/2", "x", strings.Repeat("y", 100))...)
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:5]}))
			goneAfter(t, w, cfg.HeaderTimeout)
		},
		"a frame that doesn't end": func(t *testing.T) {
			w := r.dial(t)
			w.mute = true
			_, err := w.c.Write([]byte{0, 0, 8, 6})
			require.NoError(t, err)
			goneAfter(t, w, cfg.HeaderTimeout)
		},
		"idle, whatever is sent": func(t *testing.T) {
			w := r.dial(t)
			w.headers(1, true, get("/3")...)
			w.read(ended(1))
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for tick := time.NewTicker(50 * time.Millisecond); ; {
					select {
					case <-tick.C:
						_ = w.f.WritePing(false, [8]byte{})
					case <-stop:
						tick.Stop()
						return
					}
				}
			}()
			s := goneAfter(t, w, cfg.IdleTimeout)
			close(stop)
			<-stopped
			require.Len(t, s.away, 1)
			require.Equal(t, http2.ErrCodeNo, s.away[0].ErrCode)
		},
		"a window that stays shut": func(t *testing.T) {
			for _, path := range []string{"/100000", "/100001"} {
				w := r.dial(t, window(1000))
				w.headers(1, true, get(path)...)
				s := w.read(func(s *seen) bool { return s.reset[1] != 0 })
				require.Equal(t, http2.ErrCodeCancel, s.reset[1])
			}
		},
		"the connection's window stays shut": func(t *testing.T) {
			w := r.dial(t, window(1<<20))
			w.headers(1, true, get("/100000")...)
			goneAfter(t, w, cfg.WriteTimeout)
		},
		"a client that waits for its answer": func(t *testing.T) {
			w := r.dial(t)
			w.headers(1, true, get("/wait")...)
			until := time.Now().Add(2 * cfg.IdleTimeout)
			s := w.read(func(*seen) bool { return time.Now().After(until) })
			require.False(t, s.closed)
			require.NoError(t, w.f.WriteRSTStream(1, http2.ErrCodeCancel))
			<-r.aborted
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t) })
	}
}

// TestReaderThatTakesNothing of its socket, with windows wide open.
func TestReaderThatTakesNothing(t *testing.T) {
	cfg := config
	cfg.WriteTimeout = 300 * time.Millisecond
	r := start(t, cfg)
	w := r.dial(t, window(1<<30))
	require.NoError(t, w.f.WriteWindowUpdate(0, 1<<30))
	w.headers(1, true, get("/16777216")...)
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.errs) == 1 && r.errs[0] != nil
	}, 10*time.Second, 10*time.Millisecond)
}

// TestStop: a stopping server finishes what it has begun, takes what was on its way,
// and says that nothing else is.
func TestStop(t *testing.T) {
	r := start(t, config)
	w := r.dial(t, window(32<<20))
	require.NoError(t, w.f.WriteWindowUpdate(0, 32<<20))
	w.headers(1, true, get("/16777216")...)
	w.headers(3, true, get("/hold")...)
	w.read(func(s *seen) bool { return s.body[1] > 0 })
	idle := r.dial(t)
	idle.headers(1, true, get("/2")...)
	idle.read(ended(1))
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.stop() }()
	s := w.read(func(s *seen) bool { return len(s.away) == 1 })
	require.EqualValues(t, 1<<31-1, s.away[0].LastStreamID)
	w.headers(5, true, get("/2")...) // it may not have known; the ping was answered after
	s = w.read(func(s *seen) bool { return len(s.away) == 1 })
	require.LessOrEqual(t, s.away[0].LastStreamID, uint32(5))
	w.headers(7, true, get("/2")...)
	close(r.hold)
	s2 := w.read(never)
	require.True(t, s2.ended[1] && s2.ended[3])
	require.Empty(t, s2.status[7])
	s = idle.read(never)
	require.Len(t, s.away, 2)
	_ = w.c.Close()
	_ = idle.c.Close()
	<-stopped
}

// TestDropped: what doesn't end in time is cut off.
func TestDropped(t *testing.T) {
	r := start(t, config)
	w := r.dial(t)
	w.headers(1, true, get("/wait")...)
	w.read(func(s *seen) bool { return s.status[1] == "200" })
	require.NoError(t, r.l.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r.l.Drain(ctx)
	require.Error(t, ctx.Err())
	<-r.aborted
}

// TestCurl and TestNghttp: clients others wrote.
func TestCurl(t *testing.T) {
	r := start(t, config)
	for _, n := range []int{2, 3, 500_000, 500_001} {
		out, err := exec.Command("curl", "-sk", "--http2", "-w", "%{http_version}", "https://"+r.addr+"/"+strconv.Itoa(n)).Output()
		require.NoError(t, err)
		require.Equal(t, string(bodyOf(n))+"2", string(out))
	}
	file := t.TempDir() + "/content"
	require.NoError(t, os.WriteFile(file, bodyOf(1<<20), 0o600))
	out, err := exec.Command("curl", "-sk", "--http2", "--data-binary", "@"+file, "https://"+r.addr+"/echo").Output()
	require.NoError(t, err)
	require.Equal(t, string(bodyOf(1<<20)), string(out))
}

func FuzzFrames(f *testing.F) {
	r := start(f, config)
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := r.dial(t)
		_, _ = w.c.Write(b)
		_ = w.c.CloseWrite()
		_, _ = io.Copy(io.Discard, w.c)
		_ = w.c.Close()
		// Others don't feel it.
		o := r.dial(t)
		o.headers(1, true, get("/2")...)
		o.read(ended(1))
		_ = o.c.Close()
	})
}

// TestFewAllocations: a memory hit costs none of ours. TLS makes one with each of
// three reads, one of them the client's, the framer one, and the site here one.
func TestFewAllocations(t *testing.T) {
	r := start(t, config)
	w := r.dial(t, window(1<<31-1))
	require.NoError(t, w.f.WriteWindowUpdate(0, 1<<30))
	w.headers(1, true, get("/2000")...)
	w.read(ended(1))
	block := w.block(get("/2000")...) // all of it is in the table
	frame := appendFrame(nil, len(block), http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, 1)
	frame = append(frame, block...)
	room, id := make([]byte, 64<<10), uint32(1)
	one := func() {
		id += 2
		binary.BigEndian.PutUint32(frame[5:], id)
		_, err := w.c.Write(frame)
		n := 0
		for n < 2000 && err == nil {
			var k int
			k, err = w.c.Read(room)
			n += k
		}
		if err != nil {
			t.Error(err)
		}
	}
	for range 100 {
		one()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(200, one), 5.0+raceAllocs)
}
