package browser

import (
	"context"
	_ "embed" // limit.js
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
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
	CallTimeout  = 15 * time.Second
	// maxComplaints bounds what a page that never stops complaining can hold.
	maxComplaints = 200
)

type config struct {
	proxy         string
	width, height int64
	mobile, dark  bool
	console       func(string)
	scripts       []string
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

//go:embed limit.js
var limitJS string

// WithBuffer has hls.js, whatever the page tells it, hold so many seconds of video
// in hand.
func WithBuffer(seconds int) Option {
	return WithScript(fmt.Sprintf("(() => { const LIMIT = %d; %s })()", seconds, limitJS))
}

// WithScript runs JavaScript in the page before its own scripts.
func WithScript(source string) Option {
	return func(c *config) { c.scripts = append(c.scripts, source) }
}

// Browser is a Chromium of its own with one page.
type Browser struct {
	ctx     context.Context
	end     context.CancelFunc
	console func(string)

	mu         sync.Mutex
	complaints []string
}

// Chromium is the browser's path: $CHROMIUM, or the one installed.
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

// Start starts a browser and opens url.
func Start(url string, options ...Option) (_ *Browser, err error) {
	c := config{width: 1280, height: 800}
	for _, o := range options {
		o(&c)
	}
	path, err := Chromium()
	if err != nil {
		return nil, err
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
	b := &Browser{ctx: ctx, end: endBrowser, console: c.console}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
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
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		return nil, fmt.Errorf("listen to %s: %w", path, err)
	}
	return b, b.Do("open "+url, startTimeout, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		return prepare(ctx, target, c)
	}), chromedp.Navigate(url))
}

// Close ends the browser.
func (b *Browser) Close() error {
	// Cancel closes the browser and waits for its process.
	err := chromedp.Cancel(b.ctx)
	b.end()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
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
	for _, source := range append([]string{online}, c.scripts...) {
		_, err := cdp.Call(ctx, target, page.AddScriptToEvaluateOnNewDocument,
			page.AddScriptToEvaluateOnNewDocumentParams{Source: source})
		if err != nil {
			return err
		}
	}
	_, err := cdp.Call(ctx, target, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: c.width, Height: c.height, DeviceScaleFactor: 1, Mobile: c.mobile})
	if err != nil || !c.dark {
		return err
	}
	_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
	return err
}

// Ended is closed when the browser has ended, whoever ended it.
func (b *Browser) Ended() <-chan struct{} { return b.ctx.Done() }

func (b *Browser) listen(event any) {
	switch e := event.(type) {
	case *log.EventEntryAdded:
		b.complain(fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL), e.Entry.Level == log.EntryLevelError)
	case *cdpruntime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		b.complain("exception: "+text, true)
	case *cdpruntime.EventConsoleAPICalled:
		if b.console == nil && e.Type != cdpruntime.ConsoleAPICalledTypeError {
			return
		}
		text := "console:"
		for _, a := range e.Args {
			text += " " + a.Description + string(a.Value)
		}
		if b.console != nil {
			b.console(text)
		}
		b.complain(text, e.Type == cdpruntime.ConsoleAPICalledTypeError)
	}
}

func (b *Browser) complain(text string, serious bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if serious && len(b.complaints) < maxComplaints {
		b.complaints = append(b.complaints, text)
	}
}

// Complaints are the browser's errors so far: failed requests ("network:"),
// violations of the security policy ("security:"), exceptions, console errors.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.complaints)
}

// Do takes steps, all of them within the timeout; what is named in the error.
func (b *Browser) Do(what string, timeout time.Duration, steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(b.ctx, timeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		return fmt.Errorf("%s: %w\nbrowser: %q", what, err, b.Complaints())
	}
	return nil
}

// Run is Do for an action with a value.
func Run[T any](b *Browser, what string, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, CallTimeout)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		err = fmt.Errorf("%s: %w\nbrowser: %q", what, err, b.Complaints())
	}
	return v, err
}

// Evaluate evaluates an expression in the page and decodes its value.
func Evaluate[T any](b *Browser, expression string) (T, error) {
	return Run(b, "evaluate "+expression, chromedp.Evaluate[T](expression))
}
