package playertest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const poll = 100 * time.Millisecond

// State is the player's window.meridian object, see web/src/state.ts.
type State struct {
	Edge           string   `json:"edge"`
	Place          string   `json:"place"`
	Pathway        string   `json:"pathway"`
	Pathways       []string `json:"pathways"`
	Steering       string   `json:"steering"`
	SteeringLoads  int      `json:"steeringLoads"`
	RouterFailures int      `json:"routerFailures"`
	Stalls         int      `json:"stalls"`
	StallSeconds   float64  `json:"stallSeconds"`
	Freezes        int      `json:"freezes"`
	Frames         int      `json:"frames"`
	Dropped        int      `json:"dropped"`
	Level          int      `json:"level"`
	Levels         int      `json:"levels"`
	Height         int      `json:"height"`
	Bitrate        float64  `json:"bitrate"`
	Bandwidth      float64  `json:"bandwidth"`
	Position       float64  `json:"position"`
	Duration       float64  `json:"duration"`
	Ahead          float64  `json:"ahead"`
	Playing        bool     `json:"playing"`
	Ended          bool     `json:"ended"`
	Growing        bool     `json:"growing"`
	Switches       int      `json:"switches"`
	Rungs          int      `json:"rungs"`
	Errors         int      `json:"errors"`
	LastError      string   `json:"lastError"`
	Recoveries     int      `json:"recoveries"`
	Notice         string   `json:"notice"`
	Engine         string   `json:"engine"`
	Log            Log      `json:"log"`
}

// Log is what the player noted last, one line for each event.
type Log []string

// String has each line on a line of its own.
func (l Log) String() string { return "\n\t" + strings.Join(l, "\n\t") + "\n" }

// Page is a page open in a browser of its own.
type Page struct {
	*Browser
	t testing.TB
}

// Open starts a browser and opens url. The browser ends with the test.
func Open(t testing.TB, url string, options ...Option) *Page {
	t.Helper()
	b, err := Start(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Logf("close Chromium: %v", err)
		}
	})
	return &Page{b, t}
}

func (p *Page) do(what string, timeout time.Duration, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := p.Browser.do(what, timeout, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// Eval evaluates an expression in the page and decodes its value.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	v, err := Evaluate[T](p.Browser, expression)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// Click clicks the first visible element the CSS selector finds, as a user would.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.do("click "+selector, callTimeout, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Press presses keys, as a user would.
func (p *Page) Press(keys string) {
	p.t.Helper()
	p.do("press "+keys, callTimeout, chromedp.KeyEvent(keys))
}

// State is the player's state now; the zero State before there is a player.
func (p *Page) State() State {
	p.t.Helper()
	return Eval[State](p, `window.meridian ?? {}`)
}

// Wait polls until ok, and fails the test after timeout.
func (p *Page) Wait(what string, timeout time.Duration, ok func(State) bool) State {
	p.t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		s := p.State()
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not %s after %v: %+v\nbrowser: %q", what, timeout, s, p.Complaints())
		}
		select {
		case <-p.ctx.Done():
			p.t.Fatalf("not %s: the browser ended", what)
		case <-time.After(poll):
		}
	}
}

// WaitPlaying waits until frames are decoded and the position moves.
func (p *Page) WaitPlaying(timeout time.Duration) State {
	p.t.Helper()
	return p.Wait("playing", timeout, func(s State) bool { return s.Playing && s.Position > 0.2 && s.Frames > 0 })
}

// WaitPosition waits until the video has played up to a position in seconds.
func (p *Page) WaitPosition(seconds float64, timeout time.Duration) State {
	p.t.Helper()
	return p.Wait(fmt.Sprintf("at %.1f s", seconds), timeout, func(s State) bool { return s.Position >= seconds })
}

// WaitEnded waits until the video has played to its end.
func (p *Page) WaitEnded(timeout time.Duration) State {
	p.t.Helper()
	return p.Wait("ended", timeout, func(s State) bool { return s.Ended })
}

// Screenshot writes what the page looks like to a PNG file.
func (p *Page) Screenshot(path string) {
	p.t.Helper()
	png, err := run(p.Browser, "screenshot", chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		p.t.Fatalf("screenshot: %v", err)
	}
}
