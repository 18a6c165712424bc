package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/command"
	"github.com/meridian-video/meridian/encoder"
	"github.com/meridian-video/meridian/internal/cli"
)

type options struct {
	source, vp9     string
	lengths         []time.Duration
	seconds, rounds int
	height, threads int
	slots           int
	workers         int
	limit           time.Duration
	// lines are rates of uploads in Mbit/s, containers what is uploaded; ready is whether
	// complete encodes are waited for.
	lines      []float64
	containers []string
	ready      bool
	// unindexed are kinds of sources without an index, which -playable is about.
	unindexed []string
}

// workerCommand is what this program is with "encoder" as its first argument: the
// command of `meridian encoder`, so that the pipeline runs in processes of its own.
type workerCommand struct {
	Encoder encoder.Command `cmd:""`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "encoder" {
		os.Exit(cli.Main(os.Args[1:], &workerCommand{}))
	}
	var o options
	flag.StringVar(&o.source, "source", "testdata/media/bbb-1080p30.mp4", "a 1080p30 source, repeated to the length wanted")
	flag.IntVar(&o.seconds, "seconds", 30, "length of the encode in seconds")
	flag.IntVar(&o.rounds, "rounds", 2, "rounds of both sides")
	flag.IntVar(&o.height, "height", 1080, "highest rung")
	flag.IntVar(&o.threads, "threads", 2, "x264 threads of each rung, on both sides")
	flag.IntVar(&o.slots, "slots", 0, "tasks a worker does at once; 0: its default")
	flag.IntVar(&o.workers, "workers", 1, "workers of the pipeline")
	flag.StringVar(&o.vp9, "vp9", "testdata/media/vp9-in-mp4.mp4", "a source in VP9, for -playable")
	flag.Func("playable", "instead: how soon videos of these lengths, as in 10s,5m,30m,2h, are playable", func(list string) error {
		for length := range strings.SplitSeq(list, ",") {
			d, err := time.ParseDuration(length)
			if err != nil || d < time.Second {
				return fmt.Errorf("%q: want lengths of at least a second, as in 10s,2h", length)
			}
			o.lengths = append(o.lengths, d)
		}
		return nil
	})
	flag.Func("lines", "with -playable: upload at these rates in Mbit/s, as in 50,200, encoding early and not", func(list string) error {
		for s := range strings.SplitSeq(list, ",") {
			rate, err := strconv.ParseFloat(s, 64)
			if err != nil || rate <= 0 {
				return fmt.Errorf("%q: want rates in Mbit/s, as in 50,200", list)
			}
			o.lines = append(o.lines, rate)
		}
		return nil
	})
	o.containers = []string{"mp4", "fragmented", "mpegts", "matroska", "webm"}
	flag.Func("containers", "with -lines: of "+strings.Join(o.containers, ", ")+" these; WebM is of the VP9 source, MP4 of both, others of the H.264 one", func(list string) error {
		o.containers = strings.Split(list, ",")
		for _, c := range o.containers {
			if containers[c] == nil {
				return fmt.Errorf("%q: not a container that is known here", c)
			}
		}
		return nil
	})
	flag.Func("unindexed", "with -playable: of sources without an index, as in flv,avi,ts,ps,asf", func(list string) error {
		o.unindexed = strings.Split(list, ",")
		return nil
	})
	flag.BoolVar(&o.ready, "ready", false, "with -lines: wait until the videos are ready, too")
	flag.DurationVar(&o.limit, "limit", 0, "the longest the whole run may take; 0: as long as machines that are three times slower than the film need")
	flag.Parse()
	command.Main("bench/encode", o.most(), func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

// most is the longest the whole run may take: where encodes are compared, both sides of all
// rounds at a third of the film's speed, besides what starting, films and pictures take.
func (o options) most() time.Duration {
	const beside = 10 * time.Minute
	switch {
	case o.limit > 0:
		return o.limit
	case len(o.lines) > 0:
		return time.Hour
	case len(o.lengths) > 0: // the encodes aren't waited for
		return beside + time.Duration(len(o.lengths))*5*time.Minute
	}
	return beside + time.Duration(o.rounds*2*3*o.seconds)*time.Second
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "meridian-bench-encode-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := startPipeline(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if len(o.lines) > 0 {
		return lines(ctx, o, p, dir, out)
	}
	if len(o.lengths) > 0 {
		return firsts(ctx, o, p, dir, out)
	}
	file := filepath.Join(dir, "source.mp4")
	if err := repeat(ctx, o.source, file, time.Duration(o.seconds)*time.Second, containers["mp4"]...); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d s of 1080p30, rungs up to %d, %d threads a rung, %d worker(s)\n", o.seconds, o.height, o.threads, o.workers)
	var bares, piped []result
	for n := range o.rounds {
		// The order changes, so that neither side always runs on a warmer machine.
		for _, side := range []bool{n%2 == 0, n%2 != 0} {
			if side {
				r, err := bare(ctx, o, file, dir)
				if err != nil {
					return err
				}
				bares = append(bares, r)
				fmt.Fprintf(out, "bare  %6.2f s wall %6.2f s CPU\n", r.wall.Seconds(), r.cpu.Seconds())
				continue
			}
			r, err := p.encode(ctx, file)
			if err != nil {
				return err
			}
			piped = append(piped, r)
			fmt.Fprintf(out, "ours  %6.2f s wall %6.2f s CPU, then %.2f s for pictures, playable after %.2f s, %d MiB a worker; %s\n", r.wall.Seconds(), r.cpu.Seconds(), r.pictures.Seconds(), r.playable.Seconds(), r.memory>>20, r.detail)
		}
	}
	wall := func(r result) time.Duration { return r.wall }
	cpu := func(r result) time.Duration { return r.cpu }
	fmt.Fprintf(out, "throughput ratio %.3f (best %.3f), CPU ratio %.3f\n", ratio(bares, piped, wall), best(bares, piped), 1/ratio(bares, piped, cpu))
	return nil
}

// result is one encode.
type result struct {
	wall, cpu time.Duration
	// playable is when the first parts could be watched; pictures is the CPU time of
	// posters, storyboard and preview, which are made after the run.
	playable, pictures time.Duration
	// memory is the most of one worker and its children, in bytes.
	memory int64
	detail string
}

func ratio(a, b []result, of func(result) time.Duration) float64 {
	var x, y time.Duration
	for _, r := range a {
		x += of(r)
	}
	for _, r := range b {
		y += of(r)
	}
	return float64(x) / float64(y)
}

// best compares each side's fastest round: the one other work disturbed least.
func best(a, b []result) float64 {
	fastest := func(rs []result) time.Duration {
		return slices.MinFunc(rs, func(x, y result) int { return int(x.wall - y.wall) }).wall
	}
	return float64(fastest(a)) / float64(fastest(b))
}
