package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/viewer"
	"github.com/meridian-video/meridian/web/browser"
)

// The forms of a playlist.
const (
	bySteering = "steering"
	byPlain    = "plain"
)

// kind is a player that takes part.
type kind struct {
	name  string
	forms []string
	// native players run on their own; the others are pages in a browser.
	native bool
	// fixed tells that its buffer can't be chosen.
	fixed bool
	// args are its arguments besides those that every run of it has; of a page they are
	// pairs of a query argument and its value.
	args []string
	play func(ctx context.Context, b *bench, w *watcher) error
}

func kinds() []kind {
	both := []string{bySteering, byPlain}
	plain := []string{byPlain}
	return []kind{
		{name: "Meridian", forms: both[:1], play: ours},
		{name: "hls.js", forms: both, play: page("hls.js.html")},
		{name: "Shaka", forms: both, play: page("shaka.html")},
		{name: "Shaka with 4 tries of 3 s", forms: both[:1], play: page("shaka.html"),
			args: []string{"retry", `{"maxAttempts": 4, "connectionTimeout": 3000, "stallTimeout": 3000}`}},
		{name: "Video.js", forms: both, play: page("videojs.html")},
		{name: "mpv", forms: plain, native: true, play: mpv},
		{name: "mpv --network-timeout=3", forms: plain, native: true, play: mpv, args: []string{"--network-timeout=3"}},
		{name: "GStreamer", forms: plain, native: true, play: gstreamer},
		{name: "ffplay", forms: plain, native: true, fixed: true, play: ffplay},
		{name: "ffplay -rw_timeout 2500000", forms: plain, native: true, fixed: true, play: ffplay, args: []string{"-rw_timeout", "2500000"}},
	}
}

// watcher is one player that plays.
type watcher struct {
	kind
	form   string
	buffer int // seconds; 0 is the player's own
	source netip.Addr
	meter  meter
	// err is why it ended before the film did; valid once done is closed.
	err  error
	done chan struct{}
}

// sampleEvery is how often native players are asked.
const sampleEvery = 100 * time.Millisecond

// playlist is the master a watcher is given.
func (b *bench) playlist(w *watcher) string {
	u := b.platform.Table.Regions[0].Router.URL + "/v/-/" + b.platform.asset + "/master.m3u8"
	if w.form == byPlain {
		u += "?steering=0"
	}
	return u
}

//go:embed web/meter.js
var meterJS string

// ours plays with the page of the nearest router.
func ours(ctx context.Context, b *bench, w *watcher) error {
	u := b.platform.Table.Regions[0].Router.URL + "/watch/" + b.platform.asset
	return browse(ctx, b, w, u, browser.WithBuffer(w.buffer))
}

// page plays with a page of ours around a player of theirs.
func page(name string) func(context.Context, *bench, *watcher) error {
	return func(ctx context.Context, b *bench, w *watcher) error {
		q := url.Values{"src": {b.playlist(w)}, "buffer": {strconv.Itoa(w.buffer)}}
		for i := 0; i+1 < len(w.args); i += 2 {
			q.Set(w.args[i], w.args[i+1])
		}
		return browse(ctx, b, w, b.pages+"/"+name+"?"+q.Encode())
	}
}

const drainEvery = 250 * time.Millisecond

// browse opens a page and follows its video to the end.
func browse(ctx context.Context, b *bench, w *watcher, u string, more ...browser.Option) (err error) {
	v, err := viewer.Open(viewer.Config{Dial: b.platform.viewers.DialFrom(w.source), NameServers: b.platform.Table.NameServers("eu")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	br, err := browser.Start(u, append(more, browser.WithProxy(v.Proxy()), browser.WithSize(480, 360, false), browser.WithScript(meterJS))...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, br.Close()) }()
	type drained struct {
		Samples []struct {
			At, Position, Ahead float64
			Ended               bool
		}
		Errors []string
	}
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		d, err := browser.Evaluate[drained](br, "bench.drain()")
		if err != nil {
			return err
		}
		for _, e := range d.Errors {
			w.meter.fail(e)
		}
		for _, s := range d.Samples {
			w.meter.add(sample{time.UnixMicro(int64(s.At * 1000)), s.Position, s.Ahead})
			if s.Ended {
				w.meter.end()
				return nil
			}
		}
	}
}

// run starts a native player among the viewers and hands its output, line by
// line, to each; carriage returns end lines, too.
func run(ctx context.Context, b *bench, env []string, line func(string), args ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + b.platform.path}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	r, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		sc := bufio.NewScanner(r)
		sc.Split(splitLines)
		for sc.Scan() {
			line(sc.Text())
		}
		// A line too long ends the reading, not the player.
		_, _ = io.Copy(io.Discard, r)
	}()
	err := cmd.Wait()
	out.Close()
	<-read
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func ffplay(ctx context.Context, b *bench, w *watcher) error {
	env := []string{"SDL_VIDEODRIVER=dummy", "SDL_AUDIODRIVER=dummy"}
	last := 0.0
	err := run(ctx, b, env, func(line string) {
		if at, starved, ok := statistics(line); ok {
			if !starved {
				last = at
			}
			w.meter.add(sample{time.Now(), last, -1})
		} else if !strings.HasPrefix(strings.TrimSpace(line), "nan") {
			w.complain(line)
		}
	}, slices.Concat([]string{"ffplay", "-hide_banner", "-loglevel", "error", "-stats", "-autoexit", "-x", "320", "-y", "180"}, w.args, []string{b.playlist(w)})...)
	if err == nil {
		w.meter.end()
	}
	return err
}

// complain notes what a player prints, but for what FFmpeg calls an error with
// every redirect to another host.
func (w *watcher) complain(line string) {
	if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "Cannot reuse HTTP connection for different host") {
		w.meter.fail(line)
	}
}

// statistics reads the master clock off ffplay's line of statistics. It runs on when
// there is nothing to play: then the player is starved.
func statistics(line string) (at float64, starved, ok bool) {
	f := strings.Fields(line)
	if len(f) < 3 || !strings.Contains(line, " aq=") {
		return 0, false, false
	}
	at, err := strconv.ParseFloat(f[0], 64)
	flat := strings.ReplaceAll(line, "= ", "=")
	for strings.Contains(flat, "= ") {
		flat = strings.ReplaceAll(flat, "= ", "=")
	}
	return at, strings.Contains(flat, " aq=0KB vq=0KB "), err == nil && at == at
}

func gstreamer(ctx context.Context, b *bench, w *watcher) error {
	ended := false
	// Debian's own Python has Debian's bindings.
	err := run(ctx, b, nil, func(line string) {
		var at, ahead float64
		switch n, _ := fmt.Sscan(line, &at, &ahead); {
		case n == 2:
			w.meter.add(sample{time.Now(), at, -1})
		case line == "ended":
			ended = true
			w.meter.end()
		default:
			w.meter.fail(line)
		}
	}, "/usr/bin/python3", filepath.Join(here, "gst.py"), b.playlist(w), strconv.Itoa(w.buffer))
	if err == nil && !ended {
		err = errors.New("ended without saying so")
	}
	return err
}

func mpv(ctx context.Context, b *bench, w *watcher) error {
	socket := filepath.Join(b.platform.Dir, fmt.Sprintf("mpv-%s", w.source))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- askMPV(ctx, w, socket) }()
	err := run(ctx, b, nil, func(line string) {
		w.complain(line)
	}, slices.Concat([]string{"mpv", "--no-config", "--vo=null", "--ao=null", "--quiet", "--msg-level=all=error", "--cache=yes",
		"--cache-secs=" + strconv.Itoa(w.buffer), "--demuxer-readahead-secs=" + strconv.Itoa(w.buffer), "--input-ipc-server=" + socket},
		w.args, []string{b.playlist(w)})...)
	cancel()
	aerr := <-asked
	if err == nil && !w.meter.read().ended {
		err = errors.Join(errors.New("ended before the film"), aerr)
	}
	return err
}

// askMPV asks for position and buffer until the player ends.
func askMPV(ctx context.Context, w *watcher, socket string) error {
	var conn net.Conn
	for conn == nil {
		c, err := net.Dial("unix", socket)
		if err == nil {
			conn = c
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mpv's socket: %w", err)
		case <-time.After(sampleEvery):
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		ahead := -1.0
		sc := bufio.NewScanner(conn)
		for sc.Scan() {
			var m struct {
				Event     string  `json:"event"`
				Reason    string  `json:"reason"`
				FileError string  `json:"file_error"`
				Error     string  `json:"error"`
				Data      float64 `json:"data"`
				ID        int     `json:"request_id"`
			}
			if json.Unmarshal(sc.Bytes(), &m) != nil {
				continue // an answer of another kind
			}
			switch {
			case m.Event == "end-file" && m.Reason == "eof":
				w.meter.end()
			case m.Event == "end-file":
				w.meter.fail(m.Reason + " " + m.FileError)
			case m.Error != "success":
			case m.ID == 1:
				ahead = m.Data
			case m.ID == 2:
				w.meter.add(sample{time.Now(), m.Data, ahead})
			}
		}
	}()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-answers:
			return nil
		case <-tick.C:
		}
		_, err := io.WriteString(conn, `{"command":["get_property","demuxer-cache-duration"],"request_id":1}
{"command":["get_property","time-pos"],"request_id":2}
`)
		if err != nil {
			<-answers
			return nil // it has ended
		}
	}
}
