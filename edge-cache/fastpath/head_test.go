package fastpath

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const base = "GET /a HTTP/1.1\r\nHost: x\r\n"

func TestParse(t *testing.T) {
	for in, want := range map[string]verdict{
		"": incomplete, "GET": incomplete, "GET /a HTTP/1.1\r\nHost: x\r\n": incomplete,
		base + "\r\n": plain, base + "\r\nGET /b": plain, base + "X-A: b\r\n\r\n": plain, base + "A:\r\n\r\n": plain,
		base + "Connection: keep-alive\r\n\r\n": plain, base + "connection:Keep-Alive \r\n\r\n": plain,
		"GET /a?b=%20c HTTP/1.1\r\nHost: x:80\r\n\r\n": plain, "GET /a HTTP/1.1\r\nhOST:\t[::1]:80 \r\n\r\n": plain,
		"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n": plain, base + "Range: bytes=0-1\r\n\r\n": plain,
		base + "If-None-Match: *\r\n\r\n": plain, base + "IF-ANYTHING: 1\r\n\r\n": plain,
		// It comes back.
		base + strings.Repeat("A: b\r\n", maxFields+1) + "\r\n": bodiless, base + "Range: bytes=0-1\r\n" + strings.Repeat("A: b\r\n", maxFields) + "\r\n": bodiless,
		// Other requests, and whatever may be read in two ways.
		"POST /a HTTP/1.1\r\nHost: x\r\n\r\n": other, "get /a HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /a HTTP/1.0\r\nHost: x\r\n\r\n": other,
		"GET  /a HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /a HTTP/1.1 \r\nHost: x\r\n\r\n": other, "GET /a\tHTTP/1.1\r\nHost: x\r\n\r\n": other,
		"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET * HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n": other,
		"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /% HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /a;b HTTP/1.1\r\nHost: x\r\n\r\n": other,
		"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n": other, "\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n": other, "GET /a HTTP/1.1\r\n\r\n": other,
		base + "Host: x\r\n\r\n": other, "GET /a HTTP/1.1\r\nHost:\r\n\r\n": other, "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n": other,
		base + "Content-Length: 0\r\n\r\n": other, base + "Content-Length: 5\r\n\r\nhello": other, base + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n": other,
		base + "Transfer-Encoding : chunked\r\n\r\n": other, base + "\tTransfer-Encoding: chunked\r\n\r\n": other, base + " folded\r\n\r\n": other,
		base + "Expect: 100-continue\r\n\r\n": other, base + "Upgrade: h2c\r\n\r\n": other, base + "HTTP2-Settings: x\r\n\r\n": other, base + "TE: trailers\r\n\r\n": other,
		base + "Connection: close\r\n\r\n": other, base + "Connection: keep-alive, upgrade\r\n\r\n": other, base + "Proxy-Connection: close\r\n\r\n": other,
		base + "A\x00: b\r\n\r\n": other, base + "A: b\x00\r\n\r\n": other, base + "A: b\x7f\r\n\r\n": other, base + "A: \xff\r\n\r\n": other, base + ": b\r\n\r\n": other,
		base + "A: b\nContent-Length: 5\r\n\r\n": other, base + "A: b\rContent-Length: 5\r\n\r\n": other, base + "nothing\r\n\r\n": other,
		"GET /a HTTP/1.1\nHost: x\n\n\r\n\r\n": other,
	} {
		var r Request
		n, v := parse([]byte(in), &r)
		require.Equal(t, want, v, "%q", in)
		if v != incomplete {
			require.Equal(t, strings.Index(in, "\r\n\r\n")+4, n, "%q", in)
		}
	}
	var r Request
	_, v := parse([]byte("GET /a?b HTTP/1.1\r\nUser-Agent: \t me and you \r\nHost: x\r\nB:\r\n\r\n"), &r)
	require.Equal(t, plain, v)
	require.Equal(t, "/a?b", string(r.Target))
	require.Equal(t, "x", string(r.Host))
	require.Len(t, r.Fields, 2)
	require.Equal(t, "me and you", string(r.Fields[0].Value))
	require.True(t, r.Fields[0].Is("user-agent"))
	require.True(t, r.Fields[0].HasPrefix("user-"))
	require.False(t, r.Fields[1].Is("user-agent"))
	require.False(t, r.Selects())
	_, v = parse([]byte("HEAD /a HTTP/1.1\r\nHost: x\r\nif-None-match: \"a\"\r\nA: b\r\nIf-None-Match: \"b\"\r\n\r\n"), &r)
	require.Equal(t, plain, v)
	require.True(t, r.Head)
	require.Equal(t, http.Header{"If-None-Match": {`"a"`, `"b"`}}, r.Select)
	require.Len(t, r.Fields, 1)
	_, v = parse([]byte(base+"\r\n"), &r)
	require.Equal(t, plain, v)
	require.False(t, r.Selects(), "nothing is left of the request before")
}

// FuzzParse: what the fast path takes, net/http reads as the same request,
// ending at the same byte.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "Range: bytes=0-1\r\n", "A: b\r\n", "Content-Length: 3\r\n", "Connection: close\r\n", "A: b\nB: c\r\n"} {
		f.Add([]byte(base + s + "\r\nrest"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		n, v := parse(b, &r)
		if v != plain && v != bodiless {
			return
		}
		br := bufio.NewReader(bytes.NewReader(b[:n]))
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: net/http: %v", b[:n], err)
		}
		if r.Head != (req.Method == http.MethodHead) || req.RequestURI != string(r.Target) || req.Host != string(r.Host) || req.ContentLength != 0 ||
			len(req.TransferEncoding) > 0 || req.Close || req.Body != http.NoBody || br.Buffered() != 0 {
			t.Fatalf("%q: %q of %q, net/http %q of %q, close %v, length %d", b[:n], r.Target, r.Host, req.RequestURI, req.Host, req.Close, req.ContentLength)
		}
		for name, vs := range r.Select {
			if v == plain && !slices.Equal(vs, req.Header[name]) {
				t.Fatalf("%q: %s: %q, net/http %q", b[:n], name, vs, req.Header[name])
			}
		}
		for _, field := range r.Fields {
			if vs := req.Header.Values(string(field.Name)); v == plain && len(vs) == 0 {
				t.Fatalf("%q: net/http has no %q", b[:n], field.Name)
			}
		}
	})
}
