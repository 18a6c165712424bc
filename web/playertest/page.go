package playertest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/meridian-video/meridian/web/browser"
)

const poll = 100 * time.Millisecond

// Page is a page open in a browser of its own.
type Page struct {
	*browser.Browser
	t testing.TB
}

// Open starts a browser and opens url. The browser ends with the test.
func Open(t testing.TB, url string, options ...browser.Option) *Page {
	t.Helper()
	b, err := browser.Start(url, options...)
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
	if err := p.Browser.Do(what, timeout, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// Eval evaluates an expression in the page and decodes its value.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	v, err := browser.Evaluate[T](p.Browser, expression)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// Click clicks the first visible element the CSS selector finds, as a user would.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.do("click "+selector, browser.CallTimeout, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Press presses keys, as a user would.
func (p *Page) Press(keys string) {
	p.t.Helper()
	p.do("press "+keys, browser.CallTimeout, chromedp.KeyEvent(keys))
}

// State is the player's state now; the zero State before there is a player.
func (p *Page) State() browser.State {
	p.t.Helper()
	s, err := p.Browser.State()
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// Wait polls until ok, and fails the test after timeout.
func (p *Page) Wait(what string, timeout time.Duration, ok func(browser.State) bool) browser.State {
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
		case <-p.Ended():
			p.t.Fatalf("not %s: the browser ended", what)
		case <-time.After(poll):
		}
	}
}

// WaitPlaying waits until frames are decoded and the position moves.
func (p *Page) WaitPlaying(timeout time.Duration) browser.State {
	p.t.Helper()
	return p.Wait("playing", timeout, func(s browser.State) bool { return s.Playing && s.Position > 0.2 && s.Frames > 0 })
}

// WaitPosition waits until the video has played up to a position in seconds.
func (p *Page) WaitPosition(seconds float64, timeout time.Duration) browser.State {
	p.t.Helper()
	return p.Wait(fmt.Sprintf("at %.1f s", seconds), timeout, func(s browser.State) bool { return s.Position >= seconds })
}

// WaitEnded waits until the video has played to its end.
func (p *Page) WaitEnded(timeout time.Duration) browser.State {
	p.t.Helper()
	return p.Wait("ended", timeout, func(s browser.State) bool { return s.Ended })
}

// Screenshot writes what the page looks like to a PNG file.
func (p *Page) Screenshot(path string) {
	p.t.Helper()
	png, err := browser.Run(p.Browser, "screenshot", chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		p.t.Fatalf("screenshot: %v", err)
	}
}
