package fastpath

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/pages"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestHalfClosed: a client that has said all it will is answered.
func TestHalfClosed(t *testing.T) {
	r := start(t, true, patient)
	for _, row := range []string{request(2, ""), request(8<<20, ""), request(2, "") + request(100_000, "") + request(3, "") + request(4, "")} {
		c := r.dial(t)
		_, err := io.WriteString(c, row)
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		br := bufio.NewReader(c)
		for range strings.Count(row, "GET") {
			res, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(bodyOf(int(res.ContentLength)), b))
		}
		_, err = br.ReadByte()
		require.ErrorIs(t, err, io.EOF)
	}
}

// TestPipelined: more requests than a connection's turn has, read slowly.
func TestPipelined(t *testing.T) {
	for _, cfg := range []Config{patient, encrypted(t, patient)} {
		r := start(t, true, cfg)
		c := r.dial(t)
		sizes := []int{2, 100_000, 0, 20_000, 8, 400_000}
		const rounds = 50
		var row strings.Builder
		for range rounds {
			for _, n := range sizes {
				row.WriteString(request(n, ""))
			}
		}
		wrote := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, row.String())
			wrote <- err
		}()
		br := bufio.NewReaderSize(c, 4096)
		for i := range rounds * len(sizes) {
			res, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(bodyOf(sizes[i%len(sizes)]), b), i)
		}
		require.NoError(t, <-wrote)
		require.EqualValues(t, rounds*len(sizes), r.quick.Load())
	}
}

// TestReset: clients that vanish in the middle cost nothing and disturb nobody.
func TestReset(t *testing.T) {
	r := start(t, true, patient)
	const clients = 8
	for range clients {
		c := r.dial(t)
		_, err := io.WriteString(c, request(32<<20, "")+request(2, ""))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1000))
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.errs) == clients
	}, 10*time.Second, time.Millisecond)
	for _, err := range r.errs {
		require.Error(t, err)
	}
	require.Eventually(t, func() bool { return r.l.cfg.Traffic.Open.Load() == 0 }, 10*time.Second, time.Millisecond)
	r.ask(t, r.dial(t), 100_000)
}

func (r *running) ask(t testing.TB, c net.Conn, n int) {
	t.Helper()
	_, err := io.WriteString(c, request(n, ""))
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bodyOf(n), b))
}

// TestSentFromCopies: a body asked for again is sent from its copy, byte for byte,
// whatever becomes of the copy meanwhile.
func TestSentFromCopies(t *testing.T) {
	r := start(t, true, patient)
	const n = 2 << 20
	c := r.dial(t)
	require.Eventually(t, func() bool { r.ask(t, c, n); return r.l.cfg.Window.Bytes() == n }, 10*time.Second, time.Millisecond)
	slow := r.dial(t)
	_, err := io.WriteString(slow, request(n, ""))
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	require.NoError(t, err)
	r.l.cfg.Window.Close()
	require.Zero(t, r.l.cfg.Window.Bytes())
	r.ask(t, c, n)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bodyOf(n), b))
}

// fixed answers every request with the same.
type fixed struct {
	head *Head
	body []byte
	slot pages.Slot
}

func (f *fixed) Respond(*Request) (Answer, bool) {
	return Answer{Head: f.head, Body: f.body, Slot: &f.slot}, true
}
func (f *fixed) Responded(*Answer, int64, time.Duration, error) {}

func TestNoAllocations(t *testing.T) {
	for _, n := range []int{2000, 20_000, 256 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			nl, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			cfg := patient
			cfg.Window = pages.Open(8<<20, func(err error) { t.Error(err) })
			defer cfg.Window.Close()
			l, err := New(nl, cfg, &fixed{head: NewHead(http.StatusOK, []HeadField{{Name: "Content-Length", Value: fmt.Sprint(n)}}), body: bodyOf(n)})
			require.NoError(t, err)
			defer l.Drain(t.Context())
			defer func() { require.NoError(t, l.Close()) }()
			c := dial(t, l.Addr().String())
			ask, room := []byte(request(2, "")), make([]byte, 64<<10)
			whole := n + len(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n))
			one := func() {
				_, err := c.Write(ask)
				for left := whole; left > 0 && err == nil; {
					var k int
					k, err = c.Read(room[:min(left, len(room))])
					left -= k
				}
				if err != nil {
					t.Error(err)
				}
			}
			for range 100 {
				one()
			}
			require.LessOrEqual(t, testing.AllocsPerRun(200, one), 0.0)
		})
	}
}

// TestIdleConnections: those that wait have neither goroutine nor buffer.
func TestIdleConnections(t *testing.T) {
	n := 200
	if testenv.IsLong() {
		n = 8_000 // both ends have a descriptor here
	}
	r := start(t, true, patient)
	r.ask(t, r.dial(t), 2)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	all := make([]net.Conn, n)
	for i := range all {
		all[i] = r.dial(t)
		r.ask(t, all[i], 2)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+1)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(n)
	t.Logf("%d bytes for each of %d, with those of the client", each, n)
	require.Less(t, each, int64(4<<10))
	for _, c := range all {
		r.ask(t, c, 4)
	}
}

// parted answers /n with 64 KiB from n on of one whole.
type parted struct {
	whole []byte
	slot  pages.Slot
	other atomic.Bool // in place of the whole's part
}

var others = bytes.Repeat([]byte("other"), pages.MinSize)

func (p *parted) Respond(r *Request) (Answer, bool) {
	at, err := strconv.Atoi(string(r.Target[1:]))
	if err != nil {
		return Answer{}, false
	}
	body := p.whole[at : at+pages.MinSize]
	if p.other.Load() {
		body = others
	}
	head := NewHead(http.StatusOK, []HeadField{{Name: "Content-Length", Value: strconv.Itoa(len(body))}})
	return Answer{Head: head, Body: body, Slot: &p.slot, Whole: p.whole}, true
}
func (p *parted) Responded(*Answer, int64, time.Duration, error) {}

// TestPartsSentFromCopies: a part comes from its place in the copy of the whole; one
// that isn't of the whole doesn't come from there.
func TestPartsSentFromCopies(t *testing.T) {
	const size = 1 << 20
	p := &parted{whole: bodyOf(size)}
	cfg := patient
	cfg.Window = pages.Open(8<<20, func(err error) { t.Error(err) })
	defer cfg.Window.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fl, err := New(l, cfg, p)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, fl.Close())
		fl.Drain(t.Context())
	}()
	c := dial(t, l.Addr().String())
	br := bufio.NewReader(c)
	ask := func(at int) []byte {
		_, err := io.WriteString(c, request(at, ""))
		require.NoError(t, err)
		res, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return b
	}
	require.Eventually(t, func() bool { ask(0); return fl.cfg.Window.Bytes() == size }, 10*time.Second, time.Millisecond)
	for _, at := range []int{0, 1, 4096, 77_777, size - pages.MinSize} {
		a, ok := p.Respond(&Request{Target: []byte("/" + strconv.Itoa(at))})
		require.True(t, ok)
		copied, from := a.copied(cfg.Window)
		require.NotNil(t, copied)
		copied.Release()
		require.EqualValues(t, at, from)
		require.True(t, bytes.Equal(p.whole[at:at+pages.MinSize], ask(at)), at)
	}
	p.other.Store(true)
	require.True(t, bytes.Equal(others, ask(0)))
}
