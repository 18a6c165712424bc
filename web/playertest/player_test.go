package playertest_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/web"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	startIn = 45 * time.Second
	// The video lasts 27 s; the rest is for a machine that is busy with other tests.
	endIn = 75 * time.Second
)

// shot keeps a picture of the page when PLAYERTEST_SHOTS names a directory.
func shot(t *testing.T, p *playertest.Page, name string) {
	t.Helper()
	if dir := os.Getenv("PLAYERTEST_SHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}

// wantWhole checks that everything was played, without a stall, and without
// anything the security policy forbids.
func wantWhole(t *testing.T, p *playertest.Page, m media) browser.State {
	t.Helper()
	s := p.State()
	t.Logf("%+v", s)
	if s.Stalls != 0 || s.StallSeconds != 0 {
		t.Errorf("stalled %d times for %.1f s", s.Stalls, s.StallSeconds)
	}
	// A switch of rung may decode a few frames twice or leave one out.
	if s.Frames < m.frames-2*s.Rungs || s.Frames > m.frames+m.frames/5 {
		t.Errorf("decoded %d frames of %d", s.Frames, m.frames)
	}
	if s.Position < m.length-0.5 {
		t.Errorf("ended at %.2f s of %.2f", s.Position, m.length)
	}
	for _, c := range p.Complaints() {
		if strings.HasPrefix(c, "exception:") || strings.Contains(c, "Content Security Policy") {
			t.Errorf("browser: %s", c)
		}
	}
	return s
}

func TestPlayer(t *testing.T) {
	m := encode(t)

	t.Run("edge killed", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, m)
		// Growing, so that the fault finds a short buffer.
		w.window = 8 * time.Second
		p := playertest.Open(t, w.r1.url+"/watch/a")
		p.WaitPlaying(startIn)
		p.WaitPosition(5, startIn)
		if s := p.State(); s.Edge != "eu-1" || s.Place != "Frankfurt" || s.Engine != "hls.js" {
			t.Fatalf("before the fault: %+v", s)
		}
		w.eu1.kill()
		p.WaitEnded(endIn)
		if s := wantWhole(t, p, m); s.Edge != "us-1" || s.Switches == 0 || !strings.Contains(s.Steering, "127.0.0.4") {
			t.Errorf("after the fault: %+v", s)
		}
		if at := playertest.Eval[string](p, `document.querySelector('.at').textContent`); at != "Ashburn · us-1" {
			t.Errorf("page says %q", at)
		}
		w.wantReports()
	})

	t.Run("region hung with its router", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, m)
		w.window = 8 * time.Second
		var lost atomic.Int64
		w.aware = func() bool {
			at := lost.Load()
			return at != 0 && time.Since(time.UnixMilli(at)) > 1500*time.Millisecond
		}
		p := playertest.Open(t, w.r1.url+"/watch/a")
		p.WaitPlaying(startIn)
		p.WaitPosition(5, startIn)
		w.eu1.hang()
		w.r2.hang()
		lost.Store(time.Now().UnixMilli())
		p.WaitEnded(endIn)
		s := wantWhole(t, p, m)
		if s.Edge != "us-1" || s.Switches == 0 {
			t.Errorf("after the fault: %+v", s)
		}
		if !strings.Contains(s.Steering, "127.0.0.1") || s.RouterFailures == 0 {
			t.Errorf("steering still at %s", s.Steering)
		}
	})

	t.Run("starts by itself when playable, its router gone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, m)
		var playable atomic.Bool
		w.state = func() string {
			if playable.Load() {
				return web.StatePlayable
			}
			return "received"
		}
		p := playertest.Open(t, w.r1.url+"/watch/a")
		if title := playertest.Eval[string](p, `document.querySelector('.card h1').textContent`); !strings.Contains(title, "being prepared") {
			t.Fatalf("page says %q", title)
		}
		shot(t, p, "preparing")
		w.r1.kill()
		playable.Store(true)
		s := p.WaitPlaying(startIn)
		if s.RouterFailures == 0 {
			t.Errorf("the master came from a dead router: %+v", s)
		}
	})
}
