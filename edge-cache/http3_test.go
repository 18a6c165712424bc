package edgecache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// secure runs the edge with TLS, and HTTP/3 if wanted, on a port that is free for both.
func (w *world) secure(h3 bool, tune func(*Command)) (addr string, pool *x509.CertPool) {
	w.t.Helper()
	dir := w.t.TempDir()
	addr = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(w.t))
	cfg := TLS{TLS: certificate.TLS{Listen: addr, Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}, HTTP3: h3}
	pool = selfSigned(w.t, cfg)
	w.tune = func(c *Command) {
		c.TLS = cfg
		if tune != nil {
			tune(c)
		}
	}
	w.start("eu-1")
	require.Eventually(w.t, func() bool {
		c, err := net.Dial("tcp", addr)
		return err == nil && c.Close() == nil
	}, 15*time.Second, time.Millisecond)
	return addr, pool
}

// h3Client speaks HTTP/3 only.
func h3Client(t *testing.T, pool *x509.CertPool) *http.Client {
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}, DisableCompression: true,
		QUICConfig: &quic.Config{HandshakeIdleTimeout: 10 * time.Second}}
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: client.CheckRedirect}
}

func ask(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, b
}

// TestHTTP3: what HTTP/3 answers is what HTTP/2 answers, rules and refusals too.
func TestHTTP3(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	private := record0()
	private.Asset, private.Visibility = foreign, playback.Private
	private.Rules.CIDR = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	w.video(private, 1)
	far := record0()
	far.Asset = "cbcdefghijklmnopqrstuvwxyz"
	far.Rules.CIDR = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.video(far, 1)
	addr, pool := w.secure(true, nil)
	tok := mint(t, w, token.PlaybackKeyFile, token.Claims{Asset: foreign})
	c3 := h3Client(t, pool)
	tr2 := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}, ForceAttemptHTTP2: true, DisableCompression: true}
	defer tr2.CloseIdleConnections()
	c2 := &http.Client{Transport: tr2, Timeout: 30 * time.Second, CheckRedirect: client.CheckRedirect}
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	w.get(segURL("-", 0))

	for _, c := range []struct {
		name, method, path string
		header             []string
		body               string
		status             int
	}{
		{"memory hit", "GET", segURL("-", 0), nil, "", 200},
		{"with CMCD", "GET", segURL("-", 0) + "?CMCD=ot%3Dv%2Cbs", nil, "", 200},
		{"HEAD", "HEAD", segURL("-", 0), nil, "", 200},
		{"range", "GET", segURL("-", 0), []string{"Range", "bytes=1000-1999"}, "", 206},
		{"range beyond the end", "GET", segURL("-", 0), []string{"Range", "bytes=900000-"}, "", 416},
		{"not modified", "GET", segURL("-", 0), []string{"If-None-Match", "*"}, "", 304},
		{"playlist", "GET", "/v/-/" + asset + "/r1/v1080/index.m3u8", nil, "", 200},
		{"preflight", "OPTIONS", segURL("-", 0), nil, "", 204},
		{"no such object", "GET", segURL("-", 9), nil, "", 404},
		{"no such URL", "GET", "/x", nil, "", 404},
		{"method", "POST", segURL("-", 0), nil, "", 405},
		{"content", "GET", segURL("-", 0), nil, "content", 400},
		{"no token", "GET", "/v/-/" + foreign + "/r1/v1080/00000-1/00000.m4s", nil, "", 401},
		{"private, from an address that may", "GET", "/v/" + tok + "/" + foreign + "/r1/v1080/00000-1/00000.m4s", nil, "", 200},
		{"from an address that may not", "GET", "/v/-/" + far.Asset + "/r1/v1080/00000-1/00000.m4s", nil, "", 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			var bodies [2][]byte
			var heads [2]http.Header
			for i, cl := range []*http.Client{c2, c3} {
				var body io.Reader
				if c.body != "" {
					body = io.NopCloser(strings.NewReader(c.body)) // of unknown length
				}
				res, b := ask(t, cl, c.method, "https://"+addr+c.path, body, c.header...)
				require.Equal(t, c.status, res.StatusCode, string(b))
				require.Equal(t, []int{2, 3}[i], res.ProtoMajor)
				if i == 0 {
					require.Equal(t, `h3=":`+port+`"; ma=3600`, res.Header.Get("Alt-Svc"))
				}
				for _, moving := range []string{"Alt-Svc", "Date", "Age", "Cache-Status"} {
					res.Header.Del(moving)
				}
				bodies[i], heads[i] = b, res.Header
			}
			require.Equal(t, bodies[0], bodies[1])
			require.Equal(t, heads[0], heads[1])
		})
	}
	require.GreaterOrEqual(t, w.edge.gate.traffic.Sent.Load(), int64(2*segmentBytes))
	res, _ := w.get(segURL("-", 0))
	require.Empty(t, res.Header.Get("Alt-Svc"), "without TLS there is nothing to say")
}

// TestHTTP3IsOff: without the flag there is no socket and no word of it.
func TestHTTP3IsOff(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	addr, pool := w.secure(false, nil)
	udp, err := net.ListenPacket("udp", addr)
	require.NoError(t, err)
	require.NoError(t, udp.Close())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}
	defer tr.CloseIdleConnections()
	res, _ := ask(t, &http.Client{Transport: tr}, "GET", "https://"+addr+segURL("-", 0), nil)
	require.Equal(t, 200, res.StatusCode)
	require.Empty(t, res.Header.Get("Alt-Svc"))
	require.ErrorContains(t, (&TLS{HTTP3: true}).validate(true), "--tls-listen")
}

// TestHTTP3Drain: a stopping edge finishes what it answers, takes nothing new, and
// doesn't wait for clients that stay.
func TestHTTP3Drain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	addr, pool := w.secure(true, nil)
	c := h3Client(t, pool)
	ask(t, c, "GET", "https://"+addr+segURL("-", 0), nil)
	w.proxies[0].pace.Store(segmentBytes / 2)
	type answer struct {
		body []byte
		err  error
	}
	got := make(chan answer, 1)
	begun := make(chan struct{})
	go func() {
		res, err := c.Get("https://" + addr + segURL("-", 1))
		if err != nil {
			close(begun)
			got <- answer{nil, err}
			return
		}
		first := make([]byte, 1)
		_, err = io.ReadFull(res.Body, first)
		close(begun)
		rest, rerr := io.ReadAll(res.Body)
		got <- answer{append(first, rest...), errors.Join(err, rerr, res.Body.Close())}
	}()
	w.proxies[0].step <- struct{}{}
	<-begun
	started := time.Now()
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		qc, err := quic.DialAddr(ctx, addr, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h3"}}, nil)
		if err == nil {
			_ = qc.CloseWithError(0, "")
		}
		return err != nil
	}, 10*time.Second, 10*time.Millisecond)
	w.proxies[0].step <- struct{}{}
	w.proxies[0].pace.Store(0)
	a := <-got
	require.NoError(t, a.err)
	require.Equal(t, w.content[segKey(1)], a.body)
	<-stopped
	require.Less(t, time.Since(started), drainTime, "the client's connection was open still")
}

// TestHTTP3Connections: connections of one client and of all are bounded as TCP's.
func TestHTTP3Connections(t *testing.T) {
	for _, c := range []struct {
		name string
		tune func(*Command)
	}{
		{"of a client", func(c *Command) { c.ClientConnections = 3 }},
		{"of all", func(c *Command) { c.MaxConnections = 3 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, testenv.S3(t, 1))
			addr, pool := w.secure(true, c.tune)
			client.CloseIdleConnections()
			require.Eventually(t, func() bool { return w.edge.gate.traffic.Open.Load() == 0 }, 5*time.Second, time.Millisecond)
			dial := func() (*quic.Conn, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				return quic.DialAddr(ctx, addr, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h3"}}, nil)
			}
			var open []*quic.Conn
			for range 3 {
				qc, err := dial()
				require.NoError(t, err)
				open = append(open, qc)
			}
			require.EqualValues(t, 3, w.edge.gate.traffic.Open.Load())
			_, err := dial()
			var refused *quic.TransportError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, quic.ConnectionRefused, refused.ErrorCode)
			require.NoError(t, open[0].CloseWithError(0, ""))
			require.Eventually(t, func() bool {
				qc, err := dial()
				if err == nil {
					open[0] = qc
				}
				return err == nil
			}, 5*time.Second, 10*time.Millisecond)
			for _, qc := range open {
				require.NoError(t, qc.CloseWithError(0, ""))
			}
			require.Eventually(t, func() bool { return w.edge.gate.traffic.Open.Load() == 0 }, 5*time.Second, time.Millisecond)
		})
	}
}

// TestHTTP3Idle: a connection that never finishes asking is closed, one that waits
// for its answer isn't.
func TestHTTP3Idle(t *testing.T) {
	t.Parallel()
	const idle = 1500 * time.Millisecond // more than a busy machine's pause
	cfg := TLS{TLS: certificate.TLS{Cert: filepath.Join(t.TempDir(), "cert.pem"), Key: filepath.Join(t.TempDir(), "key.pem")}}
	pool := selfSigned(t, cfg)
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	require.NoError(t, err)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * idle):
		case <-r.Context().Done():
			return
		}
		_, _ = io.WriteString(w, "at last")
	})
	l, err := listenHTTP3(t.Context(), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, slow, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}, newGate(10, 0))
	require.NoError(t, err)
	l.idle = idle
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.serve(ctx) }()
	addr := l.udp.LocalAddr().String()
	c := h3Client(t, pool)
	_, b := ask(t, c, "GET", "https://"+addr+"/", nil)
	require.Equal(t, "at last", string(b))

	qc, err := quic.DialAddr(ctx, addr, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	require.NoError(t, err)
	str, err := qc.OpenStream()
	require.NoError(t, err)
	_, err = str.Write([]byte{1, 40}) // a head of 40 bytes, of which none comes
	require.NoError(t, err)
	select {
	case <-qc.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("still open")
	}
	var ended *quic.ApplicationError
	require.ErrorAs(t, context.Cause(qc.Context()), &ended)
	require.Equal(t, "idle", ended.ErrorMessage)
	cancel()
	require.NoError(t, <-done)
}

// TestHTTP3BeforeAnyOrigin: `meridian cache` has it too, and passes requests with
// content on whole.
func TestHTTP3BeforeAnyOrigin(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, r.Method+" "+string(b))
	}))
	defer origin.Close()
	dir := t.TempDir()
	cfg := TLS{TLS: certificate.TLS{Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}, HTTP3: true}
	pool := selfSigned(t, cfg)
	c := &ProxyCommand{Origin: origin.URL, Listen: "127.0.0.1:0", Process: service.Process{AdminListen: "127.0.0.1:0"}, Name: "edge", CacheMemory: 32 << 20, MaxObject: 4 << 20, MaxConnections: 100, TLS: cfg}
	require.NoError(t, c.Validate())
	_, addrs, stop := startProxy(t, c)
	base := "https://" + addrs[1]
	h3 := h3Client(t, pool)
	for _, want := range []string{"fwd=uri-miss", "hit"} {
		res, b := ask(t, h3, "GET", base+"/a", nil)
		require.Equal(t, "GET ", string(b))
		require.Contains(t, res.Header.Get("Cache-Status"), want)
	}
	for _, method := range []string{"POST", "GET"} {
		_, b := ask(t, h3, method, base+"/b", io.NopCloser(strings.NewReader("content")))
		require.Equal(t, method+" content", string(b))
	}
	stop()
}
