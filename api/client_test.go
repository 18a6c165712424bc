package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/client/cmd"
	"github.com/meridian-video/meridian/internal/service"
)

// flaky is a TCP proxy whose connections break after some bytes have gone to
// the API, as often as it is told.
type flaky struct {
	net.Listener
	to     string
	breaks atomic.Int64
	after  int64
	wg     sync.WaitGroup
}

func newFlaky(t *testing.T, to string, breaks, after int64) *flaky {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &flaky{Listener: l, to: strings.TrimPrefix(to, "http://"), after: after}
	f.breaks.Store(breaks)
	f.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.pass(c) })
		}
	})
	t.Cleanup(func() { l.Close(); f.wg.Wait() })
	return f
}

func (f *flaky) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer up.Close()
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, up); c.Close() })
	n, err := io.CopyN(up, c, f.after)
	if err == nil && n == f.after && f.breaks.Add(-1) >= 0 {
		c.Close()
	} else if err == nil {
		_, _ = io.Copy(up, c)
	}
	up.(*net.TCPConn).CloseWrite()
	c.Close()
	back.Wait()
}

func (f *flaky) url() string { return "http://" + f.Addr().String() }

// testClient: the command line's client against the real API.
func testClient(t *testing.T, pl *platform, p *process) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	content := random(3 << 20)
	file := filepath.Join(t.TempDir(), "My clip.mp4")
	require.NoError(t, os.WriteFile(file, content, 0o600))
	run := func(c interface{ Run(context.Context) error }) error {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		return c.Run(ctx)
	}
	events := func(b *bytes.Buffer) map[string]map[string]any {
		t.Helper()
		out := map[string]map[string]any{}
		d := json.NewDecoder(b)
		for d.More() {
			var e map[string]any
			require.NoError(t, d.Decode(&e))
			out[e["event"].(string)] = e
		}
		return out
	}

	t.Run("connections that break", func(t *testing.T) {
		f := newFlaky(t, p.URL, 3, 600_000)
		var out bytes.Buffer
		u := &cmd.Upload{Config: client.Config{API: f.url(), APIKey: service.Secret(p.key)}, Files: []string{file}, JSON: true, NoWait: true, Out: &out}
		require.NoError(t, run(u))
		require.Negative(t, f.breaks.Load(), "it broke as often as it should")
		asset := events(&out)["received"]["asset"].(string)
		got, _ := pl.source(asset)
		require.Equal(t, sum(content), sum(got))
		require.Equal(t, "My clip", p.asset(asset).Title)
	})

	t.Run("the command run again continues", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := client.New([]string{p.URL}, p.key)
		defer c.Close()
		up := client.Upload{Path: file, Progress: func(sent, _ int64) {
			if sent > 1<<20 {
				cancel()
			}
		}}
		_, err := c.Upload(ctx, up)
		require.ErrorIs(t, err, context.Canceled)
		var resumed bool
		r, err := c.Upload(t.Context(), client.Upload{Path: file, Started: func(_ string, _ int64, again bool) { resumed = again }})
		require.NoError(t, err)
		require.Equal(t, resumed, r.Resumed > 0)
		got, _ := pl.source(r.Asset)
		require.Equal(t, sum(content), sum(got))

		again, err := c.Upload(t.Context(), client.Upload{Path: file})
		require.NoError(t, err)
		require.Equal(t, r.Asset, again.Asset, "until it is forgotten, the same file is the same asset")
		require.NoError(t, again.Forget())
	})

	t.Run("another region goes on", func(t *testing.T) {
		first, second := pl.start(), p
		c := client.New([]string{first.URL, second.URL}, p.key)
		defer c.Close()
		var once sync.Once
		var stopped sync.WaitGroup
		r, err := c.Upload(t.Context(), client.Upload{Path: file, Progress: func(sent, _ int64) {
			if sent > 1<<20 {
				once.Do(func() { stopped.Go(first.stop) })
			}
		}})
		stopped.Wait()
		require.NoError(t, err)
		got, _ := pl.source(r.Asset)
		require.Equal(t, sum(content), sum(got))
		require.NoError(t, r.Forget())
	})

	p = p.by(t) // whose only assets are the ones that follow
	t.Run("failure says why and what next", func(t *testing.T) {
		empty := filepath.Join(t.TempDir(), "empty.mp4")
		require.NoError(t, os.WriteFile(empty, nil, 0o600))
		var out bytes.Buffer
		conf := client.Config{API: p.URL, APIKey: service.Secret(p.key)}
		err := run(&cmd.Upload{Config: conf, Files: []string{empty}, JSON: true, Out: &out})
		require.ErrorContains(t, err, "empty.mp4: empty: The file has no bytes")
		require.Equal(t, "empty", events(&out)["failed"]["code"])

		err = run(&cmd.Upload{Config: client.Config{API: p.URL, APIKey: "mk_wrongwrongwrongwrongwrongwrong"}, Files: []string{file}, Out: io.Discard})
		require.ErrorContains(t, err, "unauthorized")
		require.ErrorContains(t, err, "MERIDIAN_API_KEY")
		require.ErrorContains(t, run(&cmd.Upload{Files: []string{file}, Out: io.Discard}), "--api or MERIDIAN_API")

		// The platform fails an asset after it was received: the exit is an error with the reason.
		out.Reset()
		done := make(chan error, 1)
		go func() { done <- run(&cmd.Upload{Config: conf, Files: []string{file}, Out: &out}) }()
		var page struct{ Assets []assetJSON }
		require.Eventually(t, func() bool {
			p.do(http.MethodGet, "/v1/assets?state=received&limit=1", nil).json(t, &page)
			return len(page.Assets) == 1 && strings.HasPrefix(page.Assets[0].Title, "My clip")
		}, 20*time.Second, 50*time.Millisecond)
		failNewest(t, pl, p)
		err = <-done
		require.ErrorContains(t, err, "My clip.mp4 failed: not-a-video: It holds no pictures and no sound.")
		require.ErrorContains(t, err, "Next: ")
		require.Contains(t, out.String(), "uploaded My clip.mp4: 3.1 MB")
	})

	t.Run("assets", func(t *testing.T) {
		path := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "meridian", "client.yaml")
		require.NoError(t, client.File{API: p.URL, APIKey: p.key}.Write(path))
		var out bytes.Buffer
		list := &cmd.AssetsList{Limit: 3}
		list.Out = &out
		require.NoError(t, run(list))
		require.Contains(t, out.String(), "My clip")
		require.Contains(t, out.String(), "failed: not-a-video")
		id := strings.Fields(strings.Split(out.String(), "\n")[1])[0]
		out.Reset()
		show := &cmd.AssetsShow{ID: id}
		show.Out = &out
		require.NoError(t, run(show))
		require.Contains(t, out.String(), "/watch/"+id)
		out.Reset()
		del := &cmd.AssetsDelete{IDs: []string{id}}
		del.Out = &out
		require.NoError(t, run(del))
		require.ErrorContains(t, run(del), "not-found")
	})
}

// failNewest fails every received asset's plan, as an encoder would.
func failNewest(t *testing.T, pl *platform, p *process) {
	t.Helper()
	var page struct{ Assets []assetJSON }
	p.do(http.MethodGet, "/v1/assets?state=received", nil).json(t, &page)
	for _, a := range page.Assets {
		task, err := p.c.catalog.Claim(t.Context(), a.ID+"/r1/plan", "test", "")
		require.NoError(t, err)
		require.NoError(t, p.c.catalog.Fail(t.Context(), task, catalog.Failure{Code: "not-a-video", Detail: "It holds no pictures and no sound."}))
	}
}
