package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-isatty"

	"github.com/meridian-video/meridian/internal/client"
)

// printer prints for people on a terminal, in lines elsewhere, or JSON.
type printer struct {
	out, err io.Writer
	asJSON   bool
	tty      bool
	mu       sync.Mutex
}

func newPrinter(out, errw io.Writer, asJSON bool) *printer {
	p := &printer{out: orStd(out, os.Stdout), err: orStd(errw, os.Stderr), asJSON: asJSON}
	if f, ok := p.out.(*os.File); ok && !asJSON {
		p.tty = isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
	}
	return p
}

// line prints a line for people. A terminal that went away is no reason to stop an upload.
func (p *printer) line(format string, a ...any) {
	if p.asJSON {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, p.clear()+format+"\n", a...)
}

func (p *printer) clear() string {
	if p.tty {
		return "\r\x1b[K"
	}
	return ""
}

// mark colours a sign on terminals.
func (p *printer) mark(sign string) string {
	if p.tty && os.Getenv("NO_COLOR") == "" {
		return "\x1b[32m" + sign + "\x1b[0m"
	}
	return sign
}

// json prints a document for programs.
func (p *printer) json(v any) {
	if !p.asJSON {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = json.NewEncoder(p.out).Encode(v) // as in line
}

// failed tells programs why; people read it from the error itself.
func (p *printer) failed(file string, err error) {
	doc := map[string]any{"event": "failed", "file": file, "detail": err.Error(), "code": "error"}
	var f *assetFailure
	var problem *client.Problem
	switch {
	case errors.As(err, &f):
		doc["asset"], doc["code"], doc["detail"] = f.asset, f.Code, f.Detail
	case errors.As(err, &problem):
		doc["code"], doc["detail"], doc["status"] = problem.Code, problem.Detail, problem.Status
	}
	p.json(doc)
}

const (
	barWidth = 30
	// drawEvery on terminals, sayEvery elsewhere.
	drawEvery = 100 * time.Millisecond
	sayEvery  = 5 * time.Second
	// window is over what speed is averaged.
	window = 5 * time.Second
)

// bar shows how far something is.
type bar struct {
	p     *printer
	label string

	mu         sync.Mutex
	drawn      time.Time
	open       bool
	base       int64 // bytes that were there before
	mark       int64 // bytes at the beginning of the window
	markAt     time.Time
	speed      float64
	sent, size int64
}

func (p *printer) bar(label string) *bar { return &bar{p: p, label: label, drawn: time.Now()} }

func (b *bar) start(offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.base, b.mark, b.markAt = offset, offset, time.Now()
}

// set shows bytes with speed and time left.
func (b *bar) set(sent, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.sent, b.size = sent, size
	if sent < b.mark { // a connection broke
		b.mark, b.markAt = sent, now
	}
	if d := now.Sub(b.markAt); d > window || b.speed == 0 && d > window/10 {
		b.speed = float64(sent-b.mark) / d.Seconds()
		b.mark, b.markAt = sent, now
	}
	rest := ""
	if b.speed > 0 {
		rest = fmt.Sprintf("  %s/s", humanize.Bytes(uint64(b.speed)))
		if sent < size {
			rest += eta(time.Duration(float64(size-sent) / b.speed * float64(time.Second)))
		}
	}
	b.show(now, ratio(sent, size), rest)
}

// percent shows a share, and the seconds left if that is known.
func (b *bar) percent(share float64, left *int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := ""
	if left != nil {
		rest = eta(time.Duration(*left) * time.Second)
	}
	b.show(time.Now(), share, rest)
}

func eta(d time.Duration) string { return "  ETA " + d.Round(time.Second).String() }

func (b *bar) show(now time.Time, share float64, rest string) {
	p := b.p
	every := sayEvery
	if p.tty {
		every = drawEvery
	}
	if p.asJSON {
		if b.size > 0 && now.Sub(b.drawn) >= sayEvery/5 {
			b.drawn = now
			p.json(map[string]any{"event": "progress", "file": b.label, "sent": b.sent, "size": b.size})
		}
		return
	}
	if now.Sub(b.drawn) < every {
		return
	}
	b.drawn = now
	if !p.tty {
		p.line("%s  %3.0f%%%s", b.label, share*100, rest)
		return
	}
	full := int(share * barWidth)
	p.mu.Lock()
	defer p.mu.Unlock()
	b.open = true
	_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s  %s%s  %3.0f%%%s", b.label, strings.Repeat("█", full), strings.Repeat("░", barWidth-full), share*100, rest)
}

// done removes the bar.
func (b *bar) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		b.p.mu.Lock()
		defer b.p.mu.Unlock()
		_, _ = fmt.Fprint(b.p.out, b.p.clear())
		b.open = false
	}
}

func ratio(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}
