package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

func TestBrokenFilesFailWithTheirReason(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o644))
		return path
	}
	whole, err := os.ReadFile(sample("bikes-noaudio.mp4"))
	require.NoError(t, err)
	for _, c := range []struct{ file, code string }{
		{write("text.mp4", bytes.Repeat([]byte("this is not a video\n"), 1000)), "not-media"},
		{write("truncated.mp4", whole[:len(whole)/2]), "truncated"},
		{write("empty.mp4", nil), "empty"},
	} {
		t.Run(filepath.Base(c.file), func(t *testing.T) {
			stdout, stderr, err := platform.CLI(t.Context(), "upload", "--json", c.file)
			require.Error(t, err)
			require.Contains(t, stdout+stderr, c.code)
		})
	}
	status, out := platform.call(t, "GET", "/v1/assets?state=failed", "")
	require.Equal(t, 200, status)
	for _, a := range out["assets"].([]any) {
		requireNothingStored(t, a.(map[string]any)["id"].(string))
	}
}

// TestProfiles: a profile that encoders know is used; what to change where they don't is in the
// error, for people and for programs.
func TestProfiles(t *testing.T) {
	file := sample("bikes-noaudio.mp4")
	stdout, stderr, err := platform.CLI(t.Context(), "upload", "--json", "--profile", "nonesuch", file)
	require.Error(t, err)
	var said struct{ Event, Asset, Code, Detail string }
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &said), "%s", stdout)
	require.Equal(t, "failed", said.Event)
	require.Equal(t, "unknown-profile", said.Code)
	for _, text := range []string{said.Detail, stderr} {
		require.Contains(t, text, `no encoding profile "nonesuch"`)
		require.Contains(t, text, "ask for one of [default")
	}
	require.Contains(t, stderr, "--profile")
	requireNothingStored(t, said.Asset)

	stdout, _, err = platform.CLI(t.Context(), "upload", "--json", "--profile", "default", file)
	require.NoError(t, err)
	require.Contains(t, stdout, `"event":"ready"`)
}

func TestOverTheLimit(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, platform.api+"/v1/uploads", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+platform.Key)
	req.Header.Set("Tus-Resumable", "1.0.0")
	req.Header.Set("Upload-Length", "99999999999999")
	status, header, body := do(t, req)
	require.Equal(t, 413, status, "%s", body)
	require.Contains(t, header.Get("Content-Type"), "application/problem+json")
}

func TestKeys(t *testing.T) {
	for _, auth := range []string{"", "Bearer ", "Bearer mk_wrong", "Basic Zm9vOmJhcg=="} {
		status, header, body := get(t, platform.api+"/v1/assets", "Authorization", auth)
		require.Equal(t, 401, status, auth)
		require.Contains(t, header.Get("Content-Type"), "application/problem+json")
		require.NotEmpty(t, header.Get("WWW-Authenticate"))
		require.NotContains(t, string(body), "mk_wrong")
	}
}

// TestTokens watches a private asset with every kind of token.
func TestTokens(t *testing.T) {
	up := platform.upload(t, sample("bikes-noaudio.mp4"), "--visibility", "private")
	ready := up.until("ready", 3*time.Minute)
	edge := platform.region().Edges[0].URL
	status := func(tok string) int {
		status, _, _ := get(t, edge+"/v/"+tok+"/"+ready.Asset+"/master.m3u8")
		return status
	}
	code, out := platform.call(t, "POST", "/v1/assets/"+ready.Asset+"/tokens", `{"expires_in": 600}`)
	require.Equal(t, 201, code, "%v", out)
	good := out["token"].(string)
	require.Equal(t, 200, status(good))
	require.NoError(t, stack.Check(t.Context(), edge+"/v/"+good+"/"+ready.Asset+"/master.m3u8"))
	require.Equal(t, 401, status(token.None))
	require.Contains(t, []int{401, 403}, status(good[:len(good)-4]+"AAAA"), "forged")

	b, err := os.ReadFile(filepath.Join(platform.State(), "secrets", token.PlaybackKeyFile))
	require.NoError(t, err)
	signer, err := token.ParseSigner(string(b))
	require.NoError(t, err)
	mint := func(c token.Claims) string {
		tok, err := token.Mint(c, signer)
		require.NoError(t, err)
		return tok
	}
	require.Equal(t, 200, status(mint(token.Claims{Asset: ready.Asset, Expires: time.Now().Add(time.Minute).Unix()})))
	require.Contains(t, []int{401, 403}, status(mint(token.Claims{Asset: ready.Asset, Expires: time.Now().Add(-2 * time.Minute).Unix()})), "expired")
	require.Contains(t, []int{401, 403}, status(mint(token.Claims{Asset: token.NewID(), Expires: time.Now().Add(time.Minute).Unix()})), "foreign")
}

func TestTraversalAndRanges(t *testing.T) {
	up := platform.upload(t, sample("bikes-noaudio.mp4"))
	ready := up.until("ready", 3*time.Minute)
	for _, base := range []string{platform.region().Edges[0].URL, platform.region().Router.URL} {
		host := strings.TrimPrefix(base, "http://")
		for _, path := range []string{
			"/v/-/../../etc/passwd", "/v/-/" + ready.Asset + "/../" + ready.Asset + "/master.m3u8", "/v/-/%2e%2e/%2e%2e/keys/0000000001.json",
			"/v/-/" + ready.Asset + "/r1/..%2f..%2f..%2fkeys/index.m3u8", "/v/-/" + ready.Asset + "/r1/v240/00000-1/..%5c00000.m4s",
			"/v/-/" + strings.Repeat("a", 4000) + "/master.m3u8", "//v/-/" + ready.Asset + "/master.m3u8", "/v/-/" + ready.Asset + "/r1/%00/index.m3u8",
		} {
			// Written by hand: an HTTP client would clean the path.
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			_, err = conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"))
			require.NoError(t, err)
			line := make([]byte, 12)
			_, err = conn.Read(line)
			require.NoError(t, err)
			require.Regexp(t, `^HTTP/1\.1 (400|404|414|431)`, string(line), "%s%s", base, path)
			require.NoError(t, conn.Close())
		}
	}
	segmentURL := firstSegment(t, ready.Asset)
	for value, want := range map[string][]int{
		"bytes=0-0": {206}, "bytes=-1": {206}, "bytes=99999999999-": {416}, "bytes=-0": {416}, "bytes=5-1": {200, 416},
		"bytes=a-b": {200, 416}, "bytes=99999999999999999999999-": {200, 416}, "bytes=" + strings.Repeat("0-0,", 500) + "0-0": {200, 206, 400, 416}, "lines=1-2": {200},
	} {
		status, _, _ := get(t, segmentURL, "Range", value)
		require.Contains(t, want, status, value)
	}
}

func TestMalformedDNS(t *testing.T) {
	at := platform.region().Router.DNS
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp", at)
	require.NoError(t, err)
	defer conn.Close()
	for n := range 200 {
		packet := make([]byte, n)
		_, _ = rand.Read(packet)
		_, err := conn.Write(packet)
		require.NoError(t, err)
	}
	tcp, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", at)
	require.NoError(t, err)
	_, err = tcp.Write([]byte{0xff, 0xff, 1, 2, 3})
	require.NoError(t, err)
	require.NoError(t, tcp.Close())

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		answer, _, err := (&dns.Client{Net: network}).ExchangeContext(ctx, new(dns.Msg).SetQuestion("play."+platform.Table.Zone+".", dns.TypeA), at)
		require.NoError(t, err)
		require.Equal(t, dns.RcodeSuccess, answer.Rcode)
		require.NotEmpty(t, answer.Answer)
	}
}

// store reads the platform's object store with its own credentials.
func store(t *testing.T) *objects.Store {
	t.Helper()
	api := platform.One(t, func(p stack.Process) bool { return p.Is("api") })
	return storeFrom(t, api)
}

func requireNothingStored(t *testing.T, asset string) {
	t.Helper()
	s := store(t)
	require.Eventually(t, func() bool {
		left := 0
		for _, prefix := range []string{objects.SourcePrefix(asset), "work/" + asset + "/", objects.StreamPrefix(asset)} {
			err := s.Own().List(t.Context(), prefix, "", func(objects.Info) bool { left++; return true })
			require.NoError(t, err)
		}
		return left == 0
	}, 30*time.Second, 200*time.Millisecond, "objects of failed asset %s stay", asset)
}
