package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/bench/command"
)

// here is this program's directory in the tree.
const here = "bench/players"

// turn is the fault that kills two regions, one after the other.
const turn = "turn"

var allFaults = []string{"kill", "hang", "silence", turn}

const (
	// lossAt is where in the film a region is lost at the earliest, in seconds.
	lossAt = 12
	// readyWithin bounds how long a player may take to get there.
	readyWithin = 60 * time.Second
	// nearlyFull is how much less than its buffer a player may hold then, in seconds:
	// two segments.
	nearlyFull = 4
	// turnAfter is how long after the first loss the second comes, at the earliest
	// and at the latest.
	turnAfter, turnWithin = 10 * time.Second, 25 * time.Second
	// grace is how much longer than the film a player may take.
	grace = 40 * time.Second
	// settling is about how long a platform on a quiet machine takes to be whole again.
	settling = 15 * time.Second
	poll     = 100 * time.Millisecond
	// stillness is how long this program must have stood still for a run to be worth
	// nothing; it is repeated up to tries times.
	stillness = 2 * time.Second
	tries     = 3
)

type options struct {
	players, faults, buffers string
	forms                    string
	together, rounds         int
	network, seconds         int
	film, json, markdown     string
}

func main() {
	var o options
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	flag.StringVar(&o.players, "players", strings.Join(names, ","), "who takes part")
	flag.StringVar(&o.faults, "faults", strings.Join(allFaults, ","), "what happens to the region that serves; turn kills the next one, too")
	flag.StringVar(&o.buffers, "buffers", "10,30", "seconds that players hold")
	flag.StringVar(&o.forms, "forms", bySteering+","+byPlain, "of playlists, of players that can have both")
	flag.IntVar(&o.together, "together", 3, "players at a time, one of them native at most")
	flag.IntVar(&o.rounds, "rounds", 1, "runs of each")
	flag.IntVar(&o.network, "network", 2, "of the platform, apart from those of others")
	flag.IntVar(&o.seconds, "seconds", 70, "length of the film")
	flag.StringVar(&o.film, "film", "testdata/media/bbb-1080p30.mp4", "video the film repeats")
	flag.StringVar(&o.json, "json", "", "file for all results, JSON")
	flag.StringVar(&o.markdown, "markdown", "", "file for the table; it is also printed")
	flag.Parse()
	command.Main("bench/players", 0, func(ctx context.Context) error { return measure(ctx, o) })
}

var errStill = errors.New("the machine stood still")

// clock sees when this program stands still.
type clock struct{ lost atomic.Int64 }

func (c *clock) run(ctx context.Context) {
	last := time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if gap := now.Sub(last); gap > stillness {
			c.lost.Add(int64(gap))
		}
		last = now
	}
}

type bench struct {
	options
	clock    clock
	platform *platform
	tap      *tap
	pages    string // base URL of the players' pages
	results  []result
}

// plan is what the options ask for.
type plan struct {
	kinds   []kind
	faults  []string
	buffers []int
	forms   []string
}

func (o options) plan() (plan, error) {
	var p plan
	all := kinds()
	for _, name := range strings.Split(o.players, ",") {
		i := slices.IndexFunc(all, func(k kind) bool { return strings.EqualFold(k.name, name) })
		if i < 0 {
			return p, fmt.Errorf("unknown player %q", name)
		}
		p.kinds = append(p.kinds, all[i])
	}
	for _, f := range strings.Split(o.faults, ",") {
		if f != "none" && !slices.Contains(allFaults, f) {
			return p, fmt.Errorf("unknown fault %q: want some of %v, or none", f, allFaults)
		}
		p.faults = append(p.faults, f)
	}
	for _, s := range strings.Split(o.buffers, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 4 || n > 60 {
			return p, fmt.Errorf("buffer %q: want 4 to 60 seconds", s)
		}
		p.buffers = append(p.buffers, n)
	}
	for _, f := range strings.Split(o.forms, ",") {
		if f != bySteering && f != byPlain {
			return p, fmt.Errorf("unknown form %q: want %s or %s", f, bySteering, byPlain)
		}
		p.forms = append(p.forms, f)
	}
	if o.together < 1 || o.rounds < 1 {
		return p, errors.New("want at least one player at a time and one round")
	}
	if least := slices.Max(p.buffers) + 2*lossAt; o.seconds < least {
		return p, fmt.Errorf("a film of %d s is over before anyone notices: want %d", o.seconds, least)
	}
	return p, nil
}

// watchers are those who play under a fault with a buffer, in the order of the
// plan. With buffers after the first nobody plays in two forms.
func (p plan) watchers(buffer int, first bool) []*watcher {
	var out []*watcher
	for _, k := range p.kinds {
		if k.fixed && !first {
			continue
		}
		for _, form := range k.forms {
			if len(k.forms) == 1 || slices.Contains(p.forms, form) && (first || form == p.forms[0]) {
				w := &watcher{kind: k, form: form, buffer: buffer, done: make(chan struct{})}
				if k.fixed {
					w.buffer = 0
				}
				out = append(out, w)
			}
		}
	}
	return out
}

// batches puts players together. Native ones have one address, so there is one at a time.
func batches(all []*watcher, together int) [][]*watcher {
	var out [][]*watcher
	for len(all) > 0 {
		var now, later []*watcher
		native := false
		for _, w := range all {
			if len(now) == together || w.native && native {
				later = append(later, w)
				continue
			}
			native = native || w.native
			now = append(now, w)
		}
		// Leave no crowd of native ones for the end.
		if i := slices.IndexFunc(later, func(w *watcher) bool { return w.native }); i >= 0 && !native && together > 1 && len(now) == together {
			now[together-1], later[i] = later[i], now[together-1]
			slices.SortStableFunc(later, func(a, b *watcher) int { return rank(a) - rank(b) })
		}
		out, all = append(out, now), later
	}
	return out
}

// length is how many batches there are, and the longest they may take together: as
// long as they take when in each of them a player gets stuck.
func (o options) length(p plan) (n int, most time.Duration) {
	for i, buffer := range p.buffers {
		for _, fault := range p.faults {
			if fault != turn || i == 0 {
				n += o.rounds * len(batches(p.watchers(buffer, i == 0), o.together))
			}
		}
	}
	return n, time.Duration(n) * (time.Duration(o.seconds)*time.Second + grace + settling)
}

func rank(w *watcher) int {
	if w.native {
		return 1
	}
	return 0
}

func measure(ctx context.Context, o options) (err error) {
	plan, err := o.plan()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("isolated regions need root")
	}
	// Without them stock players would do nothing at all, and be measured at it.
	if _, err := os.Stat(filepath.Join(here, "web", "node_modules")); err != nil {
		return fmt.Errorf("the browser players aren't installed, sh tools/players.sh does that: %w", err)
	}
	n, most := o.length(plan)
	fmt.Printf("%d batches, %v at most once the film is up, on a quiet machine\n", n, most.Round(time.Minute))
	b := &bench{options: o}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go b.clock.run(watching)
	if b.platform, err = newPlatform(ctx, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.platform.Close()) }()
	if b.tap, err = listen(b.platform.viewers, b.platform.Table); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tap.Close()) }()
	l, err := net.Listen("tcp", net.JoinHostPort(b.platform.host.String(), "0"))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(here, "web"))), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		if cerr := srv.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
	}()
	b.pages = "http://" + l.Addr().String()
	for range o.rounds {
		for i, buffer := range plan.buffers {
			for _, fault := range plan.faults {
				if fault == turn && i > 0 {
					continue // the film is in hand before the second is lost
				}
				for n := range batches(plan.watchers(buffer, i == 0), o.together) {
					err := errStill
					for range tries {
						// Anew, because a watcher plays once.
						if err = b.batch(ctx, fault, batches(plan.watchers(buffer, i == 0), o.together)[n]); !errors.Is(err, errStill) {
							break
						}
						fmt.Println("again:", err)
					}
					if err != nil {
						return fmt.Errorf("%s: %w", fault, err)
					}
					// What there is must survive whatever comes.
					if err := b.write(ctx); err != nil {
						return err
					}
				}
			}
		}
	}
	fmt.Print(table(b.results))
	return nil
}

// batch plays with a few players, loses the region that serves them and notes
// what they make of it.
func (b *bench) batch(ctx context.Context, fault string, all []*watcher) (err error) {
	begun := time.Now()
	if err := b.platform.restore(ctx); err != nil {
		return err
	}
	whole, lostBefore := time.Now(), b.clock.lost.Load()
	defer func() {
		if ctx.Err() == nil {
			err = errors.Join(err, b.platform.restore(ctx))
		}
	}()
	b.tap.mark()
	playing, stop := context.WithTimeout(ctx, readyWithin+time.Duration(b.seconds)*time.Second+grace)
	defer stop()
	for i, w := range all {
		w.source = b.platform.address(1)
		if !w.native {
			w.source = b.platform.address(byte(100 + (len(b.results)+i)%100))
		}
		go func() {
			defer close(w.done)
			w.err = w.play(playing, b, w)
		}()
	}
	defer func() {
		stop()
		for _, w := range all {
			<-w.done
		}
	}()
	if err := b.until(ctx, readyWithin, all, func(w *watcher) bool {
		r := w.meter.read()
		full := r.ahead < 0 || r.ahead >= float64(w.buffer-nearlyFull) || r.position+r.ahead > float64(b.seconds-1)
		return r.position >= lossAt && full
	}); err != nil {
		return err
	}
	outs := make([]result, len(all))
	for i, w := range all {
		outs[i] = result{Player: w.name, Form: w.form, Buffer: w.buffer, Fault: fault, Rerouted: -1, from: b.tap.from(w.source)}
	}
	lost := map[string]bool{}
	if fault != "none" {
		how := fault
		if fault == turn {
			how = "kill"
		}
		if err := b.lose(ctx, how, all, outs, lost); err != nil {
			return err
		}
		if fault == turn {
			first := time.Now()
			if err := b.until(ctx, turnWithin, all, func(w *watcher) bool {
				at, _ := b.tap.elsewhere(w.source, lost)
				return !at.IsZero() && time.Since(first) >= turnAfter
			}); err != nil {
				return err
			}
			b.reroutes(all, outs, lost)
			if err := b.lose(ctx, how, all, outs, lost); err != nil {
				return err
			}
		}
	} else {
		for i, w := range all {
			w.meter.begin(time.Now())
			outs[i].begin(w)
		}
	}
	// As long as the film has left, and some.
	left := time.Duration(0)
	for _, w := range all {
		left = max(left, time.Duration((float64(b.seconds)-w.meter.read().position)*float64(time.Second)))
	}
	if err := b.until(ctx, left+grace, all, func(w *watcher) bool { return w.meter.read().ended }); err != nil {
		return err
	}
	b.reroutes(all, outs, lost)
	if d := time.Duration(b.clock.lost.Load() - lostBefore); d > 0 {
		return fmt.Errorf("%w for %v", errStill, d.Round(time.Second))
	}
	for i, w := range all {
		outs[i].finish(w, b.seconds)
		fmt.Println(outs[i])
	}
	fmt.Printf("%s: %d players, regions well after %.0f s, played for %.0f s\n", time.Now().Format(time.TimeOnly), len(all),
		whole.Sub(begun).Seconds(), time.Since(whole).Seconds())
	b.results = append(b.results, outs...)
	return nil
}

// lose loses the region most of them are served from.
func (b *bench) lose(ctx context.Context, how string, all []*watcher, outs []result, lost map[string]bool) error {
	votes, name := map[string]int{}, ""
	for _, w := range all {
		if r := b.tap.from(w.source); r != "" && !lost[r] {
			if votes[r]++; name == "" || votes[r] > votes[name] {
				name = r
			}
		}
	}
	if name == "" {
		err := errors.New("no region serves anyone")
		for _, w := range all {
			err = errors.Join(err, fmt.Errorf("%s: %v", w.name, w.meter.read().errors))
		}
		return err
	}
	for i, w := range all {
		if len(lost) == 0 {
			// Until the region's command has returned it may still serve.
			w.meter.begin(time.Now())
			outs[i].begin(w)
		}
		outs[i].from = b.tap.from(w.source)
	}
	at, err := b.platform.lose(ctx, how, name)
	if err != nil {
		return err
	}
	b.tap.mark()
	lost[name] = true
	for i := range outs {
		outs[i].lostAt = time.Time{}
		if outs[i].from == name {
			outs[i].Lost, outs[i].lostAt = append(outs[i].Lost, name), at
		}
	}
	return nil
}

// reroutes notes who got media from another region since the last loss.
func (b *bench) reroutes(all []*watcher, outs []result, lost map[string]bool) {
	for i, w := range all {
		if outs[i].lostAt.IsZero() {
			continue
		}
		if at, to := b.tap.elsewhere(w.source, lost); !at.IsZero() {
			outs[i].Rerouted = max(outs[i].Rerouted, at.Sub(outs[i].lostAt).Seconds())
			outs[i].To = append(outs[i].To, to)
		} else {
			outs[i].To = append(outs[i].To, "")
		}
	}
}

// until waits for all that still play.
func (b *bench) until(ctx context.Context, within time.Duration, all []*watcher, ok func(*watcher) bool) error {
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		waiting := slices.ContainsFunc(all, func(w *watcher) bool {
			select {
			case <-w.done:
				return false
			default:
				return !ok(w)
			}
		})
		if !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
	return nil
}

// versions are those of the players that were found.
func versions(ctx context.Context) map[string]string {
	out := map[string]string{}
	for name, args := range map[string][]string{"mpv": {"mpv", "--version"}, "ffplay": {"ffplay", "-version"},
		"GStreamer": {"gst-inspect-1.0", "--version"}, "Chromium": {"chromium", "--version"}} {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		b, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		cancel()
		if err != nil {
			continue // the player itself says what is wrong
		}
		line, _, _ := strings.Cut(string(b), "\n")
		for _, f := range strings.Fields(line) {
			if '0' <= f[0] && f[0] <= '9' {
				out[name] = f
				break
			}
		}
	}
	return out
}
