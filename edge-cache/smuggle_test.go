package edgecache

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// TestSmuggling sends requests that can be read in two ways, each with a second
// one in what may be its body: they are refused, or answered and the connection
// ended, and the second is never answered. Each is sent alone and behind a request
// the fast path answers.
func TestSmuggling(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	for range 2 {
		require.Equal(t, 200, must(w.get(segURL("-", 0))).StatusCode)
	}
	path := "/v/-/" + asset + "/r1/v1080/index.m3u8"
	require.Equal(t, 200, must(w.get(path)).StatusCode)
	const second = "GET /health/segment HTTP/1.1\r\nHost: x\r\n\r\n"
	get := "GET " + path + " HTTP/1.1\r\n"
	cases := map[string]struct {
		request string
		status  []int // that are right
	}{
		"length":                       {get + "Host: x\r\nContent-Length: 42\r\n\r\n" + second, []int{400}},
		"length of nothing":            {get + "Host: x\r\nContent-Length: 00\r\n\r\n", []int{200, 400}},
		"chunked":                      {get + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []int{400}},
		"chunked and length":           {get + "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + second, []int{400}},
		"length and chunked":           {get + "Host: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []int{400}},
		"two lengths":                  {get + "Host: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + second, []int{400}},
		"list of lengths":              {get + "Host: x\r\nContent-Length: 3, 4\r\n\r\nabc" + second, []int{400}},
		"signed length":                {get + "Host: x\r\nContent-Length: +3\r\n\r\nabc" + second, []int{400}},
		"negative length":              {get + "Host: x\r\nContent-Length: -3\r\n\r\nabc" + second, []int{400}},
		"hex length":                   {get + "Host: x\r\nContent-Length: 0x3\r\n\r\nabc" + second, []int{400}},
		"huge length":                  {get + "Host: x\r\nContent-Length: 18446744073709551619\r\n\r\nabc" + second, []int{400}},
		"space before the colon":       {get + "Host: x\r\nContent-Length : 3\r\n\r\nabc" + second, []int{400}},
		"encoding, space before colon": {get + "Host: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + second, []int{400}},
		"unknown encoding":             {get + "Host: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + second, []int{400, 501}},
		"chunked, identity":            {get + "Host: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + second, []int{400, 501}},
		"chunked twice":                {get + "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []int{400, 501}},
		"encoding with a tab":          {get + "Host: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + second, []int{400, 501}},
		"chunk size with a sign":       {get + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + second, []int{400}},
		"huge chunk":                   {get + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + second, []int{400}},
		"HTTP/1.0, chunked, kept":      {"GET " + path + " HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []int{200, 400}},
		"HTTP/1.0, kept":               {"GET " + path + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []int{200}},
		"two hosts":                    {get + "Host: x\r\nHost: y\r\n\r\n" + second, []int{400}},
		"no host":                      {get + "A: b\r\n\r\n" + second, []int{400}},
		"host with a space":            {get + "Host: x y\r\n\r\n" + second, []int{400}},
		"folded host":                  {get + "Host: x\r\n y\r\n\r\n" + second, []int{400}},
		"field before a field":         {get + " Content-Length: 3\r\nHost: x\r\n\r\nabc" + second, []int{400}},
		"a field of 40 KB":             {get + "Host: x\r\nA: " + strings.Repeat("x", 40_000) + "\r\n\r\n" + second, []int{431}},
		"40 KB of fields":              {get + "Host: x\r\n" + strings.Repeat("A: b\r\n", 6_000) + "\r\n" + second, []int{431}},
		"a path of 40 KB":              {"GET /" + strings.Repeat("x", 40_000) + " HTTP/1.1\r\nHost: x\r\n\r\n" + second, []int{414, 431}},
		"NUL in a value":               {get + "Host: x\r\nA: b\x00c\r\n\r\n" + second, []int{400}},
		"CR in a value":                {get + "Host: x\r\nA: b\rContent-Length: 3\r\n\r\nabc" + second, []int{400}},
		"NUL in a name":                {get + "Host: x\r\nA\x00: b\r\n\r\n" + second, []int{400}},
		"no colon":                     {get + "Host: x\r\nnothing\r\n\r\n" + second, []int{400}},
		"empty name":                   {get + "Host: x\r\n: b\r\n\r\n" + second, []int{400}},
		"two spaces":                   {"GET  " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" + second, []int{400}},
		"two versions":                 {"GET " + path + " HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n" + second, []int{400}},
		"tab":                          {"GET\t" + path + " HTTP/1.1\r\nHost: x\r\n\r\n" + second, []int{400}},
		"HTTP/0.9":                     {"GET " + path + "\r\n\r\n" + second, []int{400}},
		"HTTP/2 over HTTP/1.1":         {"GET " + path + " HTTP/2.0\r\nHost: x\r\n\r\n" + second, []int{400, 505}},
		"the preface of HTTP/2":        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400, 405, 505}},
		"a tunnel":                     {"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + second, []int{400, 404, 405}},
		"an upgrade":                   {get + "Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []int{200}},
	}
	// All at once: net/http lets half a second pass before it ends a connection.
	var wg sync.WaitGroup
	for name, c := range cases {
		for _, before := range []string{"", "GET " + segURL("-", 0) + " HTTP/1.1\r\nHost: x\r\n\r\n"} {
			wg.Go(func() {
				status, ended, rest, err := w.smuggle(before, c.request)
				ordinary := name == "an upgrade" || name == "length of nothing"
				if err != nil || !slices.Contains(c.status, status) || rest != "" || !ended && !ordinary {
					t.Errorf("%s, behind %q: %v, status %d, ended %v, then %q", name, before, err, status, ended, rest)
				}
			})
		}
	}
	wg.Wait()
}

// smuggle sends both requests and returns the second's status, whether the server
// ends the connection after it, and what else came before that.
func (w *world) smuggle(before, request string) (status int, ended bool, rest string, err error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	if err != nil {
		return 0, false, "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, false, "", err
	}
	_, _ = io.WriteString(conn, before+request) // it may be closed before all was sent
	br := bufio.NewReader(conn)
	var res *http.Response
	for range strings.Count(before, "GET ") + 1 {
		if res, err = http.ReadResponse(br, nil); err != nil {
			return 0, false, "", err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return 0, false, "", err
		}
	}
	if res.Close {
		b, err := io.ReadAll(br) // a reset is an end too
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, false, "", errors.New("the connection is still open")
		}
		rest = string(b)
	}
	return res.StatusCode, res.Close, rest, nil
}
