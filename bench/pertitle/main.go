package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/bench/command"
	"github.com/meridian-video/meridian/encoder"
	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

type options struct {
	film    string
	only    string
	threads int
	plans   int
	rungs   bool
	limit   time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.film, "film", "testdata/media/bbb-1080p30.mp4", "the ordinary video")
	flag.StringVar(&o.only, "only", "", "samples to compare on, separated by commas; all of them if empty")
	flag.IntVar(&o.threads, "threads", 2, "x264 threads of each rung")
	flag.IntVar(&o.plans, "plans", 5, "times each sample is planned, for what planning costs")
	flag.BoolVar(&o.rungs, "rungs", false, "print every rung to standard error")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "the longest the whole run may take")
	flag.Parse()
	command.Main("bench/pertitle", o.limit, func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "meridian-bench-pertitle-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(out, "| Video | Rungs | All rungs, kbit/s | Saved | Highest: SSIM, PSNR | Lost in a rung at most | Line for equal SSIM: growing, complete | SSIM over lines: growing, complete | Encoding | Planning |\n|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range samples() {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.name) {
			continue
		}
		line, err := o.sample(ctx, s, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintln(out, line)
	}
	return nil
}

// sample compares both ladders on one video and returns a line of the table.
func (o options) sample(ctx context.Context, s sample, dir string) (string, error) {
	source, err := s.make(ctx, o.film, dir)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	ordinary, fitted := profiles(o.threads)
	var sides [2]side
	for i, p := range []plan.Profile{ordinary, fitted} {
		if sides[i], err = encode(ctx, p, data, source, dir); err != nil {
			return "", err
		}
		if o.rungs {
			sides[i].print(os.Stderr, s.name)
		}
	}
	added, err := planning(ctx, o, data, dir)
	if err != nil {
		return "", err
	}
	a, b := sides[0], sides[1]
	worst := quality{}
	for _, r := range b.rungs {
		old := a.rungs[slices.IndexFunc(a.rungs, func(x rung) bool { return x.id == r.id })]
		worst.ssim, worst.psnr = max(worst.ssim, old.ssim-r.ssim), max(worst.psnr, old.psnr-r.psnr)
	}
	return fmt.Sprintf("| %s | %s | %.0f → %.0f | %.0f %% | %.4f → %.4f, %.2f → %.2f dB | %.4f, %.2f dB | %+.0f %%, %+.0f %% | %.4f → %.4f, %.4f → %.4f | %+.0f %% CPU | %+d ms |", s.name, b.names(),
		a.total()/1000, b.total()/1000, 100*(1-b.total()/a.total()), a.rungs[0].ssim, b.rungs[0].ssim, a.rungs[0].psnr, b.rungs[0].psnr, worst.ssim, worst.psnr,
		100*(needed(a, b, rung.growing)-1), 100*(needed(a, b, rung.complete)-1), watched(a, rung.growing), watched(b, rung.growing), watched(a, rung.complete), watched(b, rung.complete), 100*(b.cpu.Seconds()/a.cpu.Seconds()-1), added.Milliseconds()), nil
}

// profiles are the default one without and with per-title encoding. Nothing is
// copied: what is compared are encodes.
func profiles(threads int) (ordinary, fitted plan.Profile) {
	fitted = plan.Default(threads)
	fitted.Copy = false
	ordinary = fitted
	ordinary.PerTitle = plan.PerTitle{}
	return ordinary, fitted
}

// side is what one ladder became.
type side struct {
	plan  catalog.Plan
	rungs []rung
	cpu   time.Duration
}

// rung is what one rung became; rates in bit/s.
type rung struct {
	id string
	// cap is declared while the run grows, peak once it is complete.
	cap, peak, average int64
	quality
}

func (r rung) growing() int64  { return r.cap }
func (r rung) complete() int64 { return r.peak }

func (s side) total() float64 {
	sum := 0.0
	for _, r := range s.rungs {
		sum += float64(r.average)
	}
	return sum
}

// perTitle is what the plan says of it; nil for the ordinary ladder.
func (s side) perTitle() *plan.PerTitleRun {
	var r plan.Run
	if err := json.Unmarshal(s.plan.Encoder, &r); err != nil {
		return nil
	}
	return r.PerTitle
}

// names of the rungs, and why they are the ordinary ones.
func (s side) names() string {
	var names []string
	if r := s.perTitle(); r != nil && r.Complexity.Missing != "" {
		names = append(names, "not measured ("+r.Complexity.Missing+"):")
	}
	for _, r := range s.rungs {
		names = append(names, strings.TrimPrefix(r.id, "v"))
	}
	return strings.Join(names, ", ")
}

func (s side) print(out io.Writer, name string) {
	if r := s.perTitle(); r != nil {
		fmt.Fprintf(out, "%s: %+v\n", name, r.Complexity)
		for _, p := range r.Rungs {
			fmt.Fprintf(out, "  predicted %+v\n", p)
		}
	}
	for _, r := range s.rungs {
		fmt.Fprintf(out, "%s %s: cap %d, peak %d, average %d kbit/s, SSIM %.4f, PSNR %.2f dB\n", name, r.id, r.cap/1000, r.peak/1000, r.average/1000, r.ssim, r.psnr)
	}
}

// equal is a difference of SSIM that isn't seen.
const equal = 0.001

// needed is the mean (geometric) of what line the quality of an ordinary rung
// needs with the fitted ladder, in parts of what it needs with the ordinary one.
// Players take the highest rung whose declared bandwidth their line holds.
func needed(ordinary, fitted side, declared func(rung) int64) float64 {
	least := func(s side, ssim float64) float64 {
		line := math.Inf(1)
		for _, r := range s.rungs {
			if r.ssim >= ssim-equal {
				line = min(line, float64(declared(r)+sound))
			}
		}
		return line
	}
	sum, n := 0.0, 0
	for _, r := range ordinary.rungs {
		with := least(fitted, r.ssim)
		if math.IsInf(with, 1) {
			return with
		}
		sum += math.Log(with / least(ordinary, r.ssim))
		n++
	}
	return math.Exp(sum / float64(n))
}

// sound is what a variant declares beside its picture, in bit/s.
const sound = 160_000

// watched is the mean SSIM over lines of 0.8 to 10 Mbit/s, evenly spread by their
// logarithms. A line that holds no rung gets the lowest.
func watched(s side, declared func(rung) int64) float64 {
	const lines, slowest, fastest = 200, 0.8e6, 10e6
	sum := 0.0
	for i := range lines {
		line := slowest * math.Pow(fastest/slowest, float64(i)/(lines-1))
		best := slices.MinFunc(s.rungs, func(a, b rung) int { return int(declared(a) - declared(b)) })
		for _, r := range s.rungs {
			if float64(declared(r)+sound) <= line && declared(r) > declared(best) {
				best = r
			}
		}
		sum += best.ssim
	}
	return sum / lines
}

// newRun makes an encoder for one run of a video.
func newRun(ctx context.Context, p plan.Profile, data []byte, dir string) (*encoder.Encoder, *memory, *board, error) {
	m := &memory{objects: map[string][]byte{}}
	src := catalog.Source{Asset: asset, Size: int64(len(data)), Complete: true, Parts: []catalog.Part{{ID: "p", Size: int64(len(data))}}}
	m.objects[src.Key(src.Parts[0])] = data
	scratch, err := os.MkdirTemp(dir, "scratch-")
	if err != nil {
		return nil, nil, nil, err
	}
	e, err := encoder.New(ctx, m, encoder.Options{Profile: p, Source: probe.DefaultLimits(), Scratch: scratch, Speed: plan.Speed{Pixels: 1e12},
		Child: ffmpeg.Limits{AddressSpace: 8 << 30, Wall: 10 * time.Minute, Idle: time.Minute}, Confine: true, User: "nobody"},
		slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), encoder.NewMetrics(prometheus.NewRegistry()))
	return e, m, &board{source: src, profile: p.Name, records: map[string][]hls.Record{}}, err
}

func task(b *board, kind catalog.Kind, track string, chunk int) encoder.Task {
	return encoder.Task{Task: catalog.Task{ID: fmt.Sprintf("%s/r1/%s/%05d", asset, track, chunk), Asset: asset, Run: 1, Kind: kind, Track: track, Chunk: chunk, Attempt: 1}, Claim: claim{b}}
}

// encode plans and encodes a video's picture and compares every rung with it.
func encode(ctx context.Context, p plan.Profile, data []byte, source, dir string) (s side, err error) {
	e, m, b, err := newRun(ctx, p, data, dir)
	if err != nil {
		return side{}, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := e.Handle(ctx, task(b, catalog.KindPlan, "", 0)); err != nil {
		return side{}, err
	}
	s.plan = b.plan
	before := childCPU()
	for _, tr := range b.plan.Tracks {
		if tr.Kind != hls.Video {
			continue
		}
		for n, c := range tr.Chunks {
			if c.Joined {
				continue
			}
			if err := e.Handle(ctx, task(b, catalog.KindVideo, tr.ID, n)); err != nil {
				return side{}, err
			}
		}
	}
	s.cpu = childCPU() - before
	for _, tr := range b.plan.Tracks {
		if tr.Kind != hls.Video {
			continue
		}
		for _, r := range tr.Renditions {
			out := rung{id: r.ID, cap: r.Bandwidth}
			out.peak, out.average = catalog.Measure(b.records[tr.ID], r.ID, b.plan.Target)
			if out.quality, err = compare(ctx, joined(m, b.records[tr.ID], r.ID), source, filepath.Join(dir, "rung.mp4")); err != nil {
				return side{}, err
			}
			s.rungs = append(s.rungs, out)
		}
	}
	return s, nil
}

// joined is a rendition in one file.
func joined(m *memory, records []hls.Record, rendition string) []byte {
	var out []byte
	for i, r := range records {
		segments := r.Renditions[rendition]
		if i == 0 {
			out = append(out, m.objects[objects.InitKey(asset, "r1", rendition, segments.Init)]...)
		}
		for n := range segments.Segments {
			out = append(out, m.objects[objects.SegmentKey(asset, "r1", rendition, hls.SegmentPath(r.Chunk, r.Attempt, n))]...)
		}
	}
	return out
}

// planning is what per-title encoding adds to planning: the difference of the
// medians of both, planned alternately.
func planning(ctx context.Context, o options, data []byte, dir string) (time.Duration, error) {
	ordinary, fitted := profiles(o.threads)
	var took [2][]time.Duration
	for range max(o.plans, 1) {
		for i, p := range []plan.Profile{ordinary, fitted} {
			e, _, b, err := newRun(ctx, p, data, dir)
			if err != nil {
				return 0, err
			}
			start := time.Now()
			err = e.Handle(ctx, task(b, catalog.KindPlan, "", 0))
			took[i] = append(took[i], time.Since(start))
			if err := errors.Join(err, e.Close()); err != nil {
				return 0, err
			}
		}
	}
	median := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[len(d)/2]
	}
	return median(took[1]) - median(took[0]), nil
}

// childCPU is the time ended children have used.
func childCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
