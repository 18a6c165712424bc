package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bytes0 = func() []byte {
	b := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

func bodyOf(n int) []byte { return bytes0[:n] }

// site answers /n with n bytes: even ones by the responder, others by the handler,
// which has some more paths.
type site struct {
	quick, slow atomic.Int64
	panics      atomic.Int64
	told        atomic.Int64 // panics reported
	mu          sync.Mutex
	errs        []error // of the responder's answers
	heads       sync.Map
	hold        chan struct{} // /hold waits for it
	aborted     chan error    // why the context of /wait ended
}

func (s *site) Respond(r *fastpath.Request) (fastpath.Answer, bool) {
	n, err := strconv.Atoi(string(r.Target[1:]))
	if err != nil || n < 0 || n%2 == 1 || r.Selects() {
		return fastpath.Answer{}, false
	}
	if n > 0 && s.panics.Load() == int64(n) {
		panic("as asked")
	}
	s.quick.Add(1)
	h, ok := s.heads.Load(n)
	if !ok {
		h, _ = s.heads.LoadOrStore(n, fastpath.NewHead(http.StatusOK, []fastpath.HeadField{{Name: "Age", Open: true}, {Name: "Cache-Control", Value: "max-age=60"},
			{Name: "Content-Length", Value: strconv.Itoa(n)}, {Name: "Content-Type", Value: "text/plain"}, {Name: "Etag", Value: fmt.Sprintf(`"%d"`, n)}, {Name: "X-End", Value: "at ", Open: true}}))
	}
	return fastpath.Answer{Head: h.(*fastpath.Head), Values: fastpath.Values{{Number: 7}, {Text: "last"}}, Body: bodyOf(n)}, true
}

func (s *site) Responded(_ *fastpath.Answer, _ int64, _ time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.slow.Add(1)
	switch r.URL.Path {
	case "/echo":
		w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
		_, err := io.Copy(w, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	case "/hold":
		select {
		case <-s.hold:
		case <-r.Context().Done():
		}
	case "/wait":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		s.aborted <- context.Cause(r.Context())
	case "/abort":
		_, _ = w.Write(bodyOf(100))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/panic":
		panic("as asked")
	case "/short":
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write(bodyOf(5))
	case "/head":
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(bodyOf(100_000))
	case "/none":
		w.WriteHeader(http.StatusNoContent)
	case "/large-head":
		for i := range 10 {
			w.Header().Set(fmt.Sprintf("X-%d", i), string(bytes.Repeat([]byte{'~'}, 5000)))
		}
	case "/ask":
		fmt.Fprintf(w, "%s %s %s %s %v %s", r.Method, r.Host, r.RequestURI, r.Proto, r.TLS != nil, r.Header.Get("Cookie"))
	default:
		n, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			http.Error(w, "no number", http.StatusNotFound)
			return
		}
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for b := bodyOf(n); len(b) > 0; {
			k, err := w.Write(b[:min(len(b), 100_000)])
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			b = b[k:]
		}
	}
}

var config = Config{HeaderTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, WriteSize: 64 << 10, MaxHeaderBytes: 16 << 10}

type running struct {
	*site
	addr  string
	roots *tls.Config
	l     *fastpath.Listener
	stop  func()
}

func start(t testing.TB, cfg Config) *running {
	t.Helper()
	cert := httptest.NewTLSServer(nil)
	defer cert.Close()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &running{site: &site{hold: make(chan struct{}), aborted: make(chan error, 100)}, addr: nl.Addr().String(),
		roots: &tls.Config{RootCAs: cert.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", NextProtos: []string{"h2"}}}
	cfg.Handler, cfg.Responder, cfg.Panicked = r.site, r.site, func(any) { r.told.Add(1) }
	r.l, err = fastpath.New(nl, fastpath.Config{HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, WriteTimeout: cfg.WriteTimeout, WriteSize: cfg.WriteSize, MaxConnections: 100,
		TLS: &tls.Config{Certificates: cert.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}, DynamicRecordSizingDisabled: true}, HTTP2: New(cfg).Session}, r.site)
	require.NoError(t, err)
	r.stop = sync.OnceFunc(func() {
		if err := r.l.Close(); err != nil {
			require.ErrorIs(t, err, net.ErrClosed) // by the test
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r.l.Drain(ctx)
		require.NoError(t, ctx.Err(), "connections were left")
	})
	t.Cleanup(r.stop)
	return r
}

// client is Go's own.
func (r *running) client(t testing.TB) *http.Client {
	tr := &http.Transport{TLSClientConfig: r.roots.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func ask(t testing.TB, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(res.Body)
	return res, b, errors.Join(err, res.Body.Close())
}

// TestGoClient asks as Go's client does, many requests at once.
func TestGoClient(t *testing.T) {
	r := start(t, config)
	c, base := r.client(t), "https://"+r.addr
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, n := range []int{0, 1, 2, 100, 4097, 20_000, 20_001, 300_000, 300_001, 1 << 20, 1<<20 + 1} {
				res, b, err := ask(t, c, "GET", base+"/"+strconv.Itoa(n), nil)
				if err != nil || res.StatusCode != 200 || res.ProtoMajor != 2 || !bytes.Equal(bodyOf(n), b) || res.ContentLength != int64(n) {
					t.Errorf("%d, %d: %v, %d bytes", i, n, err, len(b))
				}
			}
		})
	}
	wg.Wait()
	require.NotZero(t, r.quick.Load())
	require.NotZero(t, r.slow.Load())
	res, _, err := ask(t, c, "GET", base+"/2", nil)
	require.NoError(t, err)
	require.Equal(t, http.Header{"Age": {"7"}, "Cache-Control": {"max-age=60"}, "Content-Length": {"2"}, "Content-Type": {"text/plain"}, "Etag": {`"2"`}, "X-End": {"at last"}}, res.Header)

	for _, n := range []int{0, 5, 70_000, 3 << 20} {
		res, b, err := ask(t, c, "POST", base+"/echo", bytes.NewReader(bodyOf(n)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(bodyOf(n), b), n)
		require.Equal(t, strconv.Itoa(n), res.Header.Get("X-Length"))
		_, b, err = ask(t, c, "POST", base+"/echo", io.NopCloser(bytes.NewReader(bodyOf(n))), "Expect", "100-continue")
		require.NoError(t, err)
		require.True(t, bytes.Equal(bodyOf(n), b), n)
	}
	// Content nobody reads doesn't use up the connection.
	for range 20 {
		res, _, err := ask(t, c, "POST", base+"/none", bytes.NewReader(bodyOf(100_000)))
		require.NoError(t, err)
		require.Equal(t, 204, res.StatusCode)
	}
	res, b, err := ask(t, c, "HEAD", base+"/head", nil)
	require.NoError(t, err)
	require.Empty(t, b)
	require.EqualValues(t, 100_000, res.ContentLength)
	_, b, err = ask(t, c, "GET", base+"/ask?a=b%20c", nil, "Cookie", "a=1", "Cookie", "b=2")
	require.NoError(t, err)
	require.Equal(t, "GET "+r.addr+" /ask?a=b%20c HTTP/2.0 true a=1; b=2", string(b))
	res, b, err = ask(t, c, "GET", base+"/large-head", nil)
	require.NoError(t, err)
	require.Empty(t, b)
	require.Len(t, res.Header.Get("X-9"), 5000)
	res, b, err = ask(t, c, "GET", base+"/nowhere", nil)
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
	require.Equal(t, "no number\n", string(b))
	require.EqualValues(t, len(b), res.ContentLength)
	require.NotEmpty(t, res.Header.Get("Date"))
}

// TestHandlersThatBreakOff: what they have begun is never taken for whole.
func TestHandlersThatBreakOff(t *testing.T) {
	r := start(t, config)
	c, base := r.client(t), "https://"+r.addr
	for _, path := range []string{"/abort", "/panic", "/short"} {
		_, _, err := ask(t, c, "GET", base+path, nil)
		var reset http2.StreamError
		require.Error(t, err, path)
		require.ErrorContains(t, err, "INTERNAL_ERROR", "%s %v", path, errors.As(err, &reset))
	}
	require.EqualValues(t, 1, r.told.Load())
	r.panics.Store(12)
	_, b, err := ask(t, c, "GET", base+"/12", nil)
	require.NoError(t, err)
	require.Len(t, b, 12)
	require.EqualValues(t, 2, r.told.Load())
}

// raw is a client that says what it likes.
type raw struct {
	t   testing.TB
	c   *tls.Conn
	f   *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
	dec *hpack.Decoder
	// dialled is when it began.
	dialled time.Time
	mute    bool // it acknowledges nothing
}

// dial greets; settings are the client's.
func (r *running) dial(t testing.TB, settings ...http2.Setting) *raw {
	t.Helper()
	began := time.Now()
	c, err := tls.Dial("tcp", r.addr, r.roots)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	w := &raw{t: t, c: c, f: http2.NewFramer(c, c), dec: hpack.NewDecoder(4096, nil), dialled: began}
	w.f.AllowIllegalWrites = true
	w.enc = hpack.NewEncoder(&w.buf)
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, w.f.WriteSettings(settings...))
	return w
}

// block encodes fields, given as name and value.
func (w *raw) block(fields ...string) []byte {
	w.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		require.NoError(w.t, w.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(w.buf.Bytes())
}

func get(path string, more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", path}, more...)
}

func post(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "https", ":authority", "x", ":path", path}, more...)
}

func (w *raw) headers(id uint32, end bool, fields ...string) {
	require.NoError(w.t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block(fields...), EndStream: end, EndHeaders: true}))
}

// seen is what came back.
type seen struct {
	status map[uint32]string
	body   map[uint32]int
	ended  map[uint32]bool
	reset  map[uint32]http2.ErrCode
	away   []http2.GoAwayFrame
	order  []uint32 // of DATA
	pings  int
	grew   map[uint32]uint32
	closed bool
}

// read reads until done says so or the connection ends.
func (w *raw) read(done func(*seen) bool) *seen {
	w.t.Helper()
	s := &seen{status: map[uint32]string{}, body: map[uint32]int{}, ended: map[uint32]bool{}, reset: map[uint32]http2.ErrCode{}, grew: map[uint32]uint32{}}
	for !done(s) {
		f, err := w.f.ReadFrame()
		if err != nil {
			var timeout net.Error
			require.False(w.t, errors.As(err, &timeout) && timeout.Timeout(), "nothing comes: %+v", s)
			s.closed = true
			return s
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			require.True(w.t, f.HeadersEnded())
			fields, err := w.dec.DecodeFull(f.HeaderBlockFragment())
			require.NoError(w.t, err)
			s.status[f.StreamID] = fields[0].Value
			s.ended[f.StreamID] = f.StreamEnded()
		case *http2.DataFrame:
			s.body[f.StreamID] += len(f.Data())
			s.ended[f.StreamID] = f.StreamEnded()
			s.order = append(s.order, f.StreamID)
		case *http2.RSTStreamFrame:
			s.reset[f.StreamID] = f.ErrCode
		case *http2.GoAwayFrame:
			s.away = append(s.away, *f)
		case *http2.PingFrame:
			if f.IsAck() {
				s.pings++
			} else {
				require.NoError(w.t, w.f.WritePing(true, f.Data))
			}
		case *http2.WindowUpdateFrame:
			s.grew[f.StreamID] += f.Increment
		case *http2.SettingsFrame:
			if !f.IsAck() && !w.mute {
				require.NoError(w.t, w.f.WriteSettingsAck())
			}
		}
	}
	return s
}

func ended(id uint32) func(*seen) bool { return func(s *seen) bool { return s.ended[id] } }
func never(*seen) bool                 { return false }

// TestRules: what RFC 9113 says of clients that break its rules.
func TestRules(t *testing.T) {
	r := start(t, config)
	type want struct {
		reset http2.ErrCode // of stream 1
		away  http2.ErrCode
		fine  bool // it is answered
	}
	reset := func(c http2.ErrCode) want { return want{reset: c} }
	away := func(c http2.ErrCode) want { return want{away: c} }
	const id = 1
	for _, c := range []struct {
		name string
		do   func(w *raw)
		want want
	}{
		{"a request", func(w *raw) { w.headers(id, true, get("/2")...) }, want{fine: true}},
		{"through the handler", func(w *raw) { w.headers(id, true, get("/3")...) }, want{fine: true}},
		{"host in place of authority", func(w *raw) {
			w.headers(id, true, ":method", "GET", ":scheme", "https", ":path", "/2", "host", "x")
		}, want{fine: true}},
		{"both, the same", func(w *raw) { w.headers(id, true, get("/2", "host", "X")...) }, want{fine: true}},
		{"both, another", func(w *raw) { w.headers(id, true, get("/2", "host", "y")...) }, reset(http2.ErrCodeProtocol)},
		{"capital letters", func(w *raw) { w.headers(id, true, get("/2", "X-A", "y")...) }, reset(http2.ErrCodeProtocol)},
		{"no token", func(w *raw) { w.headers(id, true, get("/2", "x y", "y")...) }, reset(http2.ErrCodeProtocol)},
		{"line end in a value", func(w *raw) { w.headers(id, true, get("/2", "x", "a\r\nb")...) }, reset(http2.ErrCodeProtocol)},
		{"zero in a value", func(w *raw) { w.headers(id, true, get("/2", "x", "a\x00b")...) }, reset(http2.ErrCodeProtocol)},
		{"space around a value", func(w *raw) { w.headers(id, true, get("/2", "x", " a")...) }, reset(http2.ErrCodeProtocol)},
		{"connection", func(w *raw) { w.headers(id, true, get("/2", "connection", "close")...) }, reset(http2.ErrCodeProtocol)},
		{"keep-alive", func(w *raw) { w.headers(id, true, get("/2", "keep-alive", "1")...) }, reset(http2.ErrCodeProtocol)},
		{"transfer-encoding", func(w *raw) { w.headers(id, true, get("/2", "transfer-encoding", "chunked")...) }, reset(http2.ErrCodeProtocol)},
		{"upgrade", func(w *raw) { w.headers(id, true, get("/2", "upgrade", "h2c")...) }, reset(http2.ErrCodeProtocol)},
		{"te", func(w *raw) { w.headers(id, true, get("/2", "te", "gzip")...) }, reset(http2.ErrCodeProtocol)},
		{"te: trailers", func(w *raw) { w.headers(id, true, get("/2", "te", "trailers")...) }, want{fine: true}},
		{"unknown pseudo-header", func(w *raw) { w.headers(id, true, get("/2", ":x", "y")...) }, reset(http2.ErrCodeProtocol)},
		{":status", func(w *raw) { w.headers(id, true, get("/2", ":status", "200")...) }, reset(http2.ErrCodeProtocol)},
		{":protocol", func(w *raw) { w.headers(id, true, get("/2", ":protocol", "websocket")...) }, reset(http2.ErrCodeProtocol)},
		{"pseudo-header twice", func(w *raw) { w.headers(id, true, get("/2", ":path", "/4")...) }, reset(http2.ErrCodeProtocol)},
		{"pseudo-header behind a field", func(w *raw) {
			w.headers(id, true, ":method", "GET", ":scheme", "https", "x", "y", ":path", "/2")
		}, reset(http2.ErrCodeProtocol)},
		{"no method", func(w *raw) { w.headers(id, true, ":scheme", "https", ":path", "/2") }, reset(http2.ErrCodeProtocol)},
		{"no scheme", func(w *raw) { w.headers(id, true, ":method", "GET", ":path", "/2") }, reset(http2.ErrCodeProtocol)},
		{"no path", func(w *raw) { w.headers(id, true, ":method", "GET", ":scheme", "https") }, reset(http2.ErrCodeProtocol)},
		{"empty path", func(w *raw) { w.headers(id, true, get("")...) }, reset(http2.ErrCodeProtocol)},
		{"relative path", func(w *raw) { w.headers(id, true, get("2")...) }, reset(http2.ErrCodeProtocol)},
		{"authority with a path", func(w *raw) {
			w.headers(id, true, ":method", "GET", ":scheme", "https", ":path", "/2", ":authority", "x/y")
		}, reset(http2.ErrCodeProtocol)},
		{"CONNECT with a path", func(w *raw) {
			w.headers(id, true, ":method", "CONNECT", ":scheme", "https", ":path", "/2", ":authority", "x")
		}, reset(http2.ErrCodeProtocol)},
		{"length of no content", func(w *raw) { w.headers(id, true, post("/echo", "content-length", "1")...) }, reset(http2.ErrCodeProtocol)},
		{"length that is none", func(w *raw) { w.headers(id, true, post("/echo", "content-length", "+0")...) }, reset(http2.ErrCodeProtocol)},
		{"two lengths", func(w *raw) {
			w.headers(id, false, post("/echo", "content-length", "1", "content-length", "2")...)
		}, reset(http2.ErrCodeProtocol)},
		{"content shorter than its length", func(w *raw) {
			w.headers(id, false, post("/echo", "content-length", "3")...)
			require.NoError(t, w.f.WriteData(id, true, []byte("ab")))
		}, reset(http2.ErrCodeProtocol)},
		{"content longer than its length", func(w *raw) {
			w.headers(id, false, post("/echo", "content-length", "3")...)
			require.NoError(t, w.f.WriteData(id, false, []byte("abcd")))
		}, reset(http2.ErrCodeProtocol)},
		{"content", func(w *raw) {
			w.headers(id, false, post("/echo", "content-length", "3")...)
			require.NoError(t, w.f.WriteDataPadded(id, true, []byte("abc"), make([]byte, 50)))
		}, want{fine: true}},
		{"trailers", func(w *raw) {
			w.headers(id, false, post("/echo")...)
			require.NoError(t, w.f.WriteData(id, false, []byte("abc")))
			w.headers(id, true, "x", "y")
		}, want{fine: true}},
		{"trailers that don't end", func(w *raw) {
			w.headers(id, false, post("/echo")...)
			w.headers(id, false, "x", "y")
		}, reset(http2.ErrCodeProtocol)},
		{"trailers with a pseudo-header", func(w *raw) {
			w.headers(id, false, post("/echo")...)
			w.headers(id, true, ":path", "/")
		}, reset(http2.ErrCodeProtocol)},
		{"CONTINUATION", func(w *raw) {
			b := w.block(get("/2", "x", "yyyyyyy")...)
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:5], EndStream: true}))
			require.NoError(t, w.f.WriteContinuation(id, false, b[5:6]))
			require.NoError(t, w.f.WriteContinuation(id, true, b[6:]))
		}, want{fine: true}},
		{"CONTINUATION without end", func(w *raw) {
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block(get("/2")...)}))
			for range maxContinuations {
				require.NoError(t, w.f.WriteContinuation(id, false, nil))
			}
		}, away(http2.ErrCodeEnhanceYourCalm)},
		{"another frame in a block", func(w *raw) {
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block(get("/2")...)}))
			require.NoError(t, w.f.WritePing(false, [8]byte{}))
		}, away(http2.ErrCodeProtocol)},
		{"CONTINUATION of nothing", func(w *raw) { require.NoError(t, w.f.WriteContinuation(id, true, w.block(get("/2")...))) }, away(http2.ErrCodeProtocol)},
		{"a block that can't be decoded", func(w *raw) {
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndStream: true, EndHeaders: true}))
		}, away(http2.ErrCodeCompression)},
		{"an even stream", func(w *raw) { w.headers(2, true, get("/2")...) }, away(http2.ErrCodeProtocol)},
		{"stream 0", func(w *raw) { w.headers(0, true, get("/2")...) }, away(http2.ErrCodeProtocol)},
		{"a lower stream", func(w *raw) {
			w.headers(5, true, get("/2")...)
			w.headers(3, true, get("/2")...)
		}, away(http2.ErrCodeProtocol)},
		{"a stream again", func(w *raw) {
			w.headers(id, true, get("/2")...)
			w.read(ended(id))
			w.headers(id, true, get("/2")...)
		}, away(http2.ErrCodeStreamClosed)},
		{"DATA after the end", func(w *raw) {
			w.headers(id, true, get("/hold")...)
			require.NoError(t, w.f.WriteData(id, true, []byte("x")))
		}, away(http2.ErrCodeStreamClosed)},
		{"HEADERS after the end", func(w *raw) {
			w.headers(id, true, get("/hold")...)
			w.headers(id, true, get("/hold")...)
		}, away(http2.ErrCodeStreamClosed)},
		{"DATA of no stream", func(w *raw) { require.NoError(t, w.f.WriteData(id, true, []byte("x"))) }, away(http2.ErrCodeProtocol)},
		{"DATA of stream 0", func(w *raw) { require.NoError(t, w.f.WriteData(0, true, []byte("x"))) }, away(http2.ErrCodeProtocol)},
		{"RST_STREAM of no stream", func(w *raw) { require.NoError(t, w.f.WriteRSTStream(id, http2.ErrCodeCancel)) }, away(http2.ErrCodeProtocol)},
		{"RST_STREAM of a wrong size", func(w *raw) { require.NoError(t, w.f.WriteRawFrame(http2.FrameRSTStream, 0, id, []byte("abc"))) }, away(http2.ErrCodeFrameSize)},
		{"WINDOW_UPDATE of no stream", func(w *raw) { require.NoError(t, w.f.WriteWindowUpdate(id, 1)) }, away(http2.ErrCodeProtocol)},
		{"WINDOW_UPDATE of nothing", func(w *raw) { require.NoError(t, w.f.WriteWindowUpdate(0, 0)) }, away(http2.ErrCodeProtocol)},
		{"WINDOW_UPDATE of nothing on a stream", func(w *raw) {
			w.headers(id, true, get("/hold")...)
			require.NoError(t, w.f.WriteWindowUpdate(id, 0))
		}, reset(http2.ErrCodeProtocol)},
		{"too large a window", func(w *raw) { require.NoError(t, w.f.WriteWindowUpdate(0, maxWindow)) }, away(http2.ErrCodeFlowControl)},
		{"too large a stream's window", func(w *raw) {
			w.headers(id, true, get("/hold")...)
			require.NoError(t, w.f.WriteWindowUpdate(id, maxWindow))
		}, reset(http2.ErrCodeFlowControl)},
		{"too large an initial window", func(w *raw) {
			require.NoError(t, w.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}))
		}, away(http2.ErrCodeFlowControl)},
		{"push neither on nor off", func(w *raw) {
			require.NoError(t, w.f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}))
		}, away(http2.ErrCodeProtocol)},
		{"too small a frame size", func(w *raw) {
			require.NoError(t, w.f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 100}))
		}, away(http2.ErrCodeProtocol)},
		{"SETTINGS of a wrong size", func(w *raw) { require.NoError(t, w.f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("abc"))) }, away(http2.ErrCodeFrameSize)},
		{"SETTINGS of a stream", func(w *raw) { require.NoError(t, w.f.WriteRawFrame(http2.FrameSettings, 0, id, nil)) }, away(http2.ErrCodeProtocol)},
		{"an acknowledgement with settings", func(w *raw) {
			require.NoError(t, w.f.WriteRawFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6)))
		}, away(http2.ErrCodeFrameSize)},
		{"PING of a wrong size", func(w *raw) { require.NoError(t, w.f.WriteRawFrame(http2.FramePing, 0, 0, []byte("abc"))) }, away(http2.ErrCodeFrameSize)},
		{"PING of a stream", func(w *raw) { require.NoError(t, w.f.WriteRawFrame(http2.FramePing, 0, id, make([]byte, 8))) }, away(http2.ErrCodeProtocol)},
		{"too large a frame", func(w *raw) {
			w.headers(id, false, post("/echo")...)
			require.NoError(t, w.f.WriteData(id, true, make([]byte, maxFrame+1)))
		}, away(http2.ErrCodeFrameSize)},
		{"PUSH_PROMISE", func(w *raw) {
			require.NoError(t, w.f.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: w.block(get("/2")...), EndHeaders: true}))
		}, away(http2.ErrCodeProtocol)},
		{"padding longer than the frame", func(w *raw) {
			require.NoError(t, w.f.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, id, []byte{200, 0x82}))
		}, away(http2.ErrCodeProtocol)},
		{"content beyond the stream's window", func(w *raw) {
			w.headers(id, false, post("/hold")...)
			for range 5 {
				require.NoError(t, w.f.WriteData(id, false, make([]byte, maxFrame)))
			}
		}, reset(http2.ErrCodeFlowControl)},
		{"content beyond the connection's window", func(w *raw) {
			for i := range uint32(5) {
				w.headers(1+2*i, false, post("/hold")...)
				for range 4 {
					require.NoError(t, w.f.WriteData(1+2*i, false, make([]byte, maxFrame)))
				}
			}
		}, away(http2.ErrCodeFlowControl)},
		{"a priority that hangs on itself", func(w *raw) {
			require.NoError(t, w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block(get("/2")...), EndStream: true, EndHeaders: true, Priority: http2.PriorityParam{StreamDep: id, Weight: 1}}))
		}, reset(http2.ErrCodeProtocol)},
		{"unknown frames", func(w *raw) {
			require.NoError(t, w.f.WriteRawFrame(0xee, 0xff, id, []byte("abc")))
			require.NoError(t, w.f.WriteRawFrame(0xef, 0, 0, nil))
			require.NoError(t, w.f.WriteSettings(http2.Setting{ID: 0xeeee, Val: 1}))
			require.NoError(t, w.f.WritePriorityUpdate(id, "u=1"))
			w.headers(id, true, get("/2", "priority", "u=9, i")...)
		}, want{fine: true}},
		{"frames after RST_STREAM of the server", func(w *raw) {
			w.headers(1, false, post("/echo", "te", "x")...)
			w.read(func(s *seen) bool { return s.reset[1] != 0 })
			require.NoError(t, w.f.WriteData(1, false, []byte("x")))
			w.headers(1, true, "x", "y")
			require.NoError(t, w.f.WriteRSTStream(1, http2.ErrCodeCancel))
			require.NoError(t, w.f.WriteWindowUpdate(1, 5))
			w.headers(3, true, get("/2")...)
		}, want{fine: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := r.dial(t)
			w.t = t
			c.do(w)
			switch {
			case c.want.fine:
				s := w.read(func(s *seen) bool { return s.ended[1] || s.ended[3] })
				require.False(t, s.closed, "%+v", s)
				require.Equal(t, "200", s.status[1]+s.status[3])
			case c.want.reset != 0:
				s := w.read(func(s *seen) bool { return s.reset[1] != 0 })
				require.Equal(t, c.want.reset, s.reset[1], "%+v", s)
				w.headers(101, true, get("/2")...)
				require.True(t, w.read(ended(101)).ended[101], "the connection goes on")
			default:
				s := w.read(never)
				require.Len(t, s.away, 1)
				require.Equal(t, c.want.away, s.away[0].ErrCode)
			}
		})
	}
}

func TestNoPreface(t *testing.T) {
	r := start(t, config)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"} {
		c, err := tls.Dial("tcp", r.addr, r.roots)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(c, text)
		require.NoError(t, err)
		w := &raw{t: t, c: c, f: http2.NewFramer(io.Discard, c)}
		s := w.read(never)
		require.Len(t, s.away, 1)
		require.Equal(t, http2.ErrCodeProtocol, s.away[0].ErrCode)
		_ = c.Close()
	}
}
