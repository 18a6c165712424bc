package encoder

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
)

// budget keeps the children that run at once within the machine's memory, by
// estimates. A child that needs more than all of it runs alone.
type budget struct {
	total int64
	sem   *semaphore.Weighted
}

func newBudget(total int64) *budget {
	return &budget{total: total, sem: semaphore.NewWeighted(total)}
}

// hold waits until n bytes are free and returns what gives them back.
func (e *Encoder) hold(ctx context.Context, n int64) (release func(), err error) {
	b := e.budget
	if b == nil {
		return func() {}, nil
	}
	n = min(n, b.total)
	began := time.Now()
	if err := b.sem.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	e.metrics.stage("memory", time.Since(began))
	e.metrics.memory.Add(float64(n))
	return func() {
		e.metrics.memory.Sub(float64(n))
		b.sem.Release(n)
	}, nil
}

// What children take that don't encode pictures.
const (
	soundMemory = 96 << 20
	probeMemory = 128 << 20
	copyMemory  = 64 << 20
	extraMemory = 256 << 20
	// baseMemory is of the program itself; decodeFrames and encodeFrames are how
	// many pictures a decoder and an x264 hold, as measured with its lookahead at
	// "veryfast"; a picture x264 holds has planes of half the size beside it.
	baseMemory   = 64 << 20
	decodeFrames = 24
	encodeFrames = 30
)

// videoMemory estimates what the child of a video task takes.
func videoMemory(t plan.VideoTrack) int64 {
	pixels := t.SourcePixels
	n := int64(baseMemory)
	for _, r := range t.Rungs {
		p := int64(r.Width) * int64(r.Height)
		pixels = max(pixels, p)
		n += encodeFrames * p * 7 / 2
	}
	// 4:2:0 in 16 bits at most, or 4:4:4 in 8.
	return n + decodeFrames*pixels*3
}

// windowMemory estimates what measuring a window takes: one thread decodes, and
// what is encoded is small.
func windowMemory(w ffmpeg.Complexity) int64 {
	return baseMemory + decodeFrames*int64(w.Width)*int64(w.Height)*3
}

// memoryShare of the machine's memory is for children: the rest is for what
// runs beside them.
const memoryShare = 0.6

// machineMemory is what the machine, or the control group this process is in,
// has; 0 when that can't be told.
func machineMemory() int64 {
	var total int64
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		total = memTotal(b)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && (total == 0 || n < total) {
			total = n
		}
	}
	return total
}

// memTotal reads proc(5)'s meminfo.
func memTotal(b []byte) int64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemTotal:")); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err == nil && n > 0 {
				return n << 10
			}
		}
	}
	return 0
}
