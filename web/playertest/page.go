package playertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	startTimeout = 60 * time.Second
	callTimeout  = 15 * time.Second
	poll         = 100 * time.Millisecond
	// maxComplaints bounds what a page that never stops complaining can hold.
	maxComplaints = 200
)

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

type config struct {
	proxy         string
	width, height int64
	mobile, dark  bool
	console       func(string)
	flags         []chromedp.ExecAllocatorOption
}

// Option changes how a page is opened.
type Option func(*config)

// WithProxy sends all of the browser's traffic, loopback included, through the
// forward proxy at addr (host:port). The proxy resolves names.
func WithProxy(addr string) Option { return func(c *config) { c.proxy = addr } }

// WithSize sets the viewport; a phone's when mobile.
func WithSize(width, height int, mobile bool) Option {
	return func(c *config) { c.width, c.height, c.mobile = int64(width), int64(height), mobile }
}

// WithDark asks for the dark colour scheme.
func WithDark() Option { return func(c *config) { c.dark = true } }

// WithConsole hands every console message to f, which must return quickly. A
// page opened with ?debug=1 writes all that hls.js does.
func WithConsole(f func(string)) Option { return func(c *config) { c.console = f } }

// WithFlag adds a command line flag of Chromium.
func WithFlag(name string, value any) Option {
	return func(c *config) { c.flags = append(c.flags, chromedp.Flag(name, value)) }
}

// Page is a page open in a browser of its own.
type Page struct {
	t       testing.TB
	ctx     context.Context
	console func(string)

	mu         sync.Mutex
	complaints []string
}

// Chromium is the browser's path: $CHROMIUM, or the one installed. Tests that
// need it fail when there is none; a browser is part of what is tested.
func Chromium() (string, error) {
	if p := os.Getenv("CHROMIUM"); p != "" {
		return p, nil
	}
	// The first is Debian's binary itself: its wrapper script would have to be killed as well.
	for _, name := range []string{"/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", errors.New("no Chromium found: install the package chromium, or set CHROMIUM to its path")
}

// Open starts a browser and opens url. The browser ends with the test.
func Open(t testing.TB, url string, options ...Option) *Page {
	t.Helper()
	c := config{width: 1280, height: 800}
	for _, o := range options {
		o(&c)
	}
	path, err := Chromium()
	if err != nil {
		t.Fatal(err)
	}
	flags := append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.NoFirstRun,
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		// Without a directory for the profile chromedp makes a new one and removes it.
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		// Two windows side by side must not slow each other's timers.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
	}, c.flags...)
	if c.proxy != "" {
		flags = append(flags, chromedp.ProxyServer(c.proxy), chromedp.Flag("proxy-bypass-list", "<-loopback>"))
	}
	actx, endBrowser := chromedp.NewExecAllocator(context.Background(), flags...)
	ctx, _ := chromedp.NewContext(actx)
	p := &Page{t: t, ctx: ctx, console: c.console}
	t.Cleanup(func() {
		// Cancel closes the browser and waits for its process.
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("close Chromium: %v", err)
		}
		endBrowser()
	})
	// The first call starts the browser and ties it to the call's context, so that one can't have a deadline.
	started := make(chan error, 1)
	go func() { started <- chromedp.Do(ctx) }()
	select {
	case err = <-started:
	case <-time.After(startTimeout):
		endBrowser()
		err = fmt.Errorf("not started after %v: %w", startTimeout, <-started)
	}
	if err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	if err := chromedp.Listen(ctx, p.listen); err != nil {
		t.Fatalf("listen to %s: %v", path, err)
	}
	p.do("open "+url, startTimeout, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		return prepare(ctx, target, c)
	}), chromedp.Navigate(url))
	return p
}

const online = `Object.defineProperty(Navigator.prototype, 'onLine', {get: () => true, configurable: true})`

// prepare sets the page up before it is opened.
func prepare(ctx context.Context, target *chromedp.Target, c config) error {
	if _, err := cdp.Call(ctx, target, log.Enable, cdp.Empty{}); err != nil {
		return err
	}
	if _, err := cdp.Call(ctx, target, cdpruntime.Enable, cdp.Empty{}); err != nil {
		return err
	}
	_, err := cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument,
		page.AddScriptToEvaluateOnNewDocumentParams{Source: online})
	if err != nil {
		return err
	}
	_, err = cdp.Call(ctx, target, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: c.width, Height: c.height, DeviceScaleFactor: 1, Mobile: c.mobile})
	if err != nil || !c.dark {
		return err
	}
	_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
	return err
}

func (p *Page) listen(event any) {
	switch e := event.(type) {
	case *log.EventEntryAdded:
		p.complain(fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL), e.Entry.Level == log.EntryLevelError)
	case *cdpruntime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		p.complain("exception: "+text, true)
	case *cdpruntime.EventConsoleAPICalled:
		if p.console == nil && e.Type != cdpruntime.ConsoleAPICalledTypeError {
			return
		}
		text := "console:"
		for _, a := range e.Args {
			text += " " + a.Description + string(a.Value)
		}
		if p.console != nil {
			p.console(text)
		}
		p.complain(text, e.Type == cdpruntime.ConsoleAPICalledTypeError)
	}
}

func (p *Page) complain(text string, serious bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if serious && len(p.complaints) < maxComplaints {
		p.complaints = append(p.complaints, text)
	}
}

// Complaints are the browser's errors so far: failed requests ("network:"),
// violations of the security policy ("security:"), exceptions, console errors.
func (p *Page) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.complaints)
}

func (p *Page) do(what string, timeout time.Duration, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v\nbrowser: %q", what, err, p.Complaints())
	}
}

func run[T any](p *Page, what string, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatalf("%s: %v\nbrowser: %q", what, err, p.Complaints())
	}
	return v
}

// Eval evaluates an expression in the page and decodes its value.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	return run(p, "evaluate "+expression, chromedp.Evaluate[T](expression))
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
	png := run(p, "screenshot", chromedp.CaptureScreenshot())
	if err := os.WriteFile(path, png, 0o644); err != nil {
		p.t.Fatalf("screenshot: %v", err)
	}
}
