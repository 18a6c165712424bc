package viewer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/resolver"
)

// nameServer answers every A question with addrs and counts the questions.
func nameServer(t *testing.T, ttl uint32, addrs ...string) (addr string, asked chan string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	asked = make(chan string, 100)
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- q.Question[0].Name + " from " + w.RemoteAddr().(*net.UDPAddr).IP.String()
		m := new(dns.Msg).SetReply(q)
		for _, a := range addrs {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.ParseIP(a)})
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan error, 1)
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go func() { done <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown())
		require.NoError(t, <-done)
	})
	return conn.LocalAddr().String(), asked
}

func TestViewerComesFromItsAddressAndResolvesThroughThePlatform(t *testing.T) {
	seen := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		seen <- host
		_, _ = w.Write(make([]byte, 1000))
	}))
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	// The first server is dead, the first address refuses.
	server, asked := nameServer(t, 60, "127.0.0.99", "127.0.0.1")
	v, err := Open(Config{Dial: resolver.From(netip.MustParseAddr("127.11.0.7")), NameServers: []string{"127.0.0.98:53", server}})
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()

	proxy, err := url.Parse(v.Proxy())
	require.NoError(t, err)
	// socks5h leaves names to the proxy, as browsers do.
	proxy.Scheme = "socks5h"
	tr := &http.Transport{Proxy: http.ProxyURL(proxy)}
	defer tr.CloseIdleConnections()
	for range 2 {
		res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://play.meridian.test:" + port)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Len(t, b, 1000)
		require.Equal(t, "127.11.0.7", <-seen)
	}
	require.Equal(t, "play.meridian.test. from 127.11.0.7", <-asked)
	require.Empty(t, asked, "the answer's TTL wasn't used")
	require.Greater(t, v.Received()[netip.MustParseAddr("127.0.0.1")], int64(2000))

	_, err = (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://127.0.0.99:" + port)
	require.ErrorContains(t, err, "refused")
}

func TestViewerTellsOfSegments(t *testing.T) {
	const size = 4 * aSegment
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "262144")
		_, _ = w.Write(make([]byte, size/4))
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/cut" {
			time.Sleep(200 * time.Millisecond)
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(make([]byte, size-size/4))
	}))
	defer srv.Close()
	v, err := Open(Config{Dial: resolver.From(netip.MustParseAddr("127.11.0.8")), Rate: 256 << 10})
	require.NoError(t, err)
	defer func() { require.NoError(t, v.Close()) }()
	proxy, err := url.Parse(v.Proxy())
	require.NoError(t, err)
	tr := &http.Transport{Proxy: http.ProxyURL(proxy)}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: time.Minute}
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
	require.False(t, v.MidSegment(own))

	begin := time.Now()
	res, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return v.MidSegment(own) }, 10*time.Second, time.Millisecond)
	n, err := io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.NoError(t, res.Body.Close())
	require.Greater(t, time.Since(begin), 800*time.Millisecond, "the line is slow")
	require.False(t, v.MidSegment(own))
	require.Zero(t, v.Cuts())

	res, err = client.Get(srv.URL + "/cut")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.Error(t, err)
	require.NoError(t, res.Body.Close())
	require.Eventually(t, func() bool { return v.Cuts() == 1 }, 10*time.Second, time.Millisecond)
}

// pipe reads from one buffer and writes to another.
type pipe struct {
	io.Reader
	io.Writer
}

func TestSOCKS(t *testing.T) {
	for name, c := range map[string]struct{ in, host, out string }{
		"name":         {"\x05\x01\x00\x05\x01\x00\x03\x04play\x1f\x91", "play:8081", "\x05\x00"},
		"address":      {"\x05\x02\x02\x00\x05\x01\x00\x01\xc6\x12\x01\x01\x1f\x91", "198.18.1.1:8081", "\x05\x00"},
		"IPv6":         {"\x05\x01\x00\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50", "[::1]:80", "\x05\x00"},
		"bind":         {"\x05\x01\x00\x05\x02\x00\x01\xc6\x12\x01\x01\x1f\x91", "", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		"unknown type": {"\x05\x01\x00\x05\x01\x00\x02", "", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		"password":     {"\x05\x01\x02", "", "\x05\xff"},
		"version 4":    {"\x04\x01", "", ""},
		"short":        {"\x05\x01\x00\x05\x01\x00\x03\x09play", "", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		var out bytes.Buffer
		host, err := readRequest(pipe{strings.NewReader(c.in), &out})
		require.Equal(t, c.host, host, name)
		require.Equal(t, c.host == "", err != nil, name)
		require.Equal(t, c.out, out.String(), name)
	}
}

func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x04play\x1f\x91"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, err := readRequest(pipe{bytes.NewReader(in), io.Discard})
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(host); err != nil && !errors.As(err, new(*net.AddrError)) {
			t.Fatal(err)
		}
	})
}

func FuzzFlow(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nabc"), 7)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(1, min(step, 100))
		var fl flow
		for ; len(in) > step; in = in[step:] {
			fl.received(in[:step])
		}
		fl.received(in)
		if fl.midSegment() && !fl.cut() || len(fl.head) > maxHead {
			t.Fatalf("%+v", fl.total)
		}
	})
}
