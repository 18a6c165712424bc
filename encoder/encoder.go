package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/encoder/confine"
	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Task is one attempt of a task; *jobs.Task has its methods.
type Task struct {
	catalog.Task
	Claim
}

// again says that an attempt before has failed by itself, not for its worker was lost: what is
// found wrong now is seen twice, and the source's fault.
func (t Task) again() bool { return t.Failures > 0 && !t.Lost }

// Claim is what an attempt reads and commits, fenced.
type Claim interface {
	Source(ctx context.Context) (catalog.Source, error)
	Plan(ctx context.Context) (catalog.Plan, error)
	Profile(ctx context.Context) (string, error)
	CommittedChunks(ctx context.Context) ([]hls.Record, error)
	CommitPlan(ctx context.Context, p catalog.Plan) error
	// GrowPlan commits a plan that grows. Unless it is offered, it gives the task back as Await does.
	GrowPlan(ctx context.Context, p catalog.Plan, bytes int64) error
	CommitChunk(ctx context.Context, c catalog.ChunkCommit) error
	CommitExtras(ctx context.Context, x hls.Extras) error
	Finish(ctx context.Context) error
	// Await gives the task back until its source has so many bytes or is complete.
	Await(ctx context.Context, bytes int64) error
	Progress(frames int64)
	// Draining says that the next task may begin.
	Draining()
}

// Store is the object store.
type Store interface {
	Put(ctx context.Context, key string, body objects.Body, p objects.Placement) ([]string, error)
	Get(ctx context.Context, key string, offset, length int64, p objects.Placement) (io.ReadCloser, objects.Info, error)
}

// Options of an Encoder.
type Options struct {
	// Profile is what runs get that ask for none; Profiles are others, by name.
	Profile  plan.Profile
	Profiles plan.Profiles
	// Limits of a source, and of one ffmpeg child.
	Source probe.Limits
	Child  ffmpeg.Limits
	// Confine children (see package confine), as this user where that is possible.
	Confine bool
	User    string
	// Scratch is a directory of this encoder alone. What earlier ones left in its
	// "work" is removed at the start.
	Scratch string
	// Memory all children together may take by estimate, in bytes; 0 for any.
	Memory int64
	// Speed is what this worker is taken to encode in a second until it has learned its own.
	Speed plan.Speed
}

// Encoder carries out tasks. Safe for concurrent use.
type Encoder struct {
	store   Store
	opt     Options
	log     *slog.Logger
	metrics *Metrics
	server  *source.Server
	confine *confine.Confinement
	lock    *os.File
	prober  probe.Prober
	budget  *budget
	// These are as the constants; tests have more patience, or less.
	complexityLimit time.Duration
	loudnessLimit   time.Duration
	partPatience    time.Duration
	wholeRemux      int64
	firstRemux      int64
	movies          movies

	mu    sync.Mutex
	plans map[string]catalog.Plan
	inits map[string]struct{}
	speed plan.Speed
	// learned counts what speed was learned from.
	learned int
}

// Bounds of what an Encoder remembers.
const (
	maxPlans = 16
	maxInits = 4096
)

// New prepares the scratch directory and the loopback server. Close releases them.
func New(ctx context.Context, s Store, opt Options, log *slog.Logger, m *Metrics) (*Encoder, error) {
	if err := opt.Profile.Validate(); err != nil {
		return nil, err
	}
	lock, err := lockDir(opt.Scratch)
	if err != nil {
		return nil, fmt.Errorf("scratch directory: %w", err)
	}
	opt.Scratch = filepath.Join(opt.Scratch, "work")
	if err := emptyDir(opt.Scratch); err != nil {
		return nil, errors.Join(fmt.Errorf("scratch directory: %w", err), lock.Close())
	}
	e := &Encoder{store: s, opt: opt, log: log, metrics: m, lock: lock,
		complexityLimit: complexityLimit, loudnessLimit: loudnessLimit, partPatience: partPatience, wholeRemux: remuxPart, firstRemux: firstPart, plans: map[string]catalog.Plan{}, inits: map[string]struct{}{}, speed: opt.Speed}
	if err := e.serveChildren(ctx); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	e.prober = probe.Prober{Limits: opt.Source, Process: e.opt.Child}
	if opt.Memory > 0 {
		e.budget = newBudget(opt.Memory)
	}
	return e, nil
}

// serveChildren starts the server that children read from, and their confinement.
func (e *Encoder) serveChildren(ctx context.Context) (err error) {
	if !e.opt.Confine {
		e.log.Warn("ffmpeg isn't confined: what a hostile file makes of it can do what this worker can")
		e.server, err = source.Listen(ctx)
		return err
	}
	e.confine, err = confine.New(ctx, confine.Options{User: e.opt.User, Programs: ffmpeg.Programs(), Try: []string{"ffprobe", "-version"}})
	if err != nil {
		return fmt.Errorf("%w (--no-confine runs ffmpeg without)", err)
	}
	e.server = source.Serve(e.confine.Listener())
	e.opt.Child.Launcher = e.confine
	for _, l := range confine.Layers() {
		e.metrics.confined(l, true)
	}
	for _, lack := range e.confine.Lacks() {
		e.log.Warn("ffmpeg is less confined than it could be", "lacks", lack.Layer, "error", lack.Why)
		e.metrics.confined(lack.Layer, false)
	}
	return nil
}

// Build says what this encoder's output depends on besides the source and the plan: a run is
// for encoders that say the same.
func (e *Encoder) Build(ctx context.Context) (string, error) {
	build, err := ffmpeg.Build(ctx, e.opt.Child)
	return fmt.Sprintf("%s, segments %d", build, fmp4.Revision), err
}

// Close stops the loopback server and gives the scratch directory up.
func (e *Encoder) Close() error {
	err := e.server.Close()
	if e.confine != nil {
		err = errors.Join(err, e.confine.Close())
	}
	return errors.Join(err, e.lock.Close())
}

// lockDir makes dir this process's own until the returned file is closed: two
// encoders emptying one directory would destroy each other's work.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is used by another encoder: give each its own --scratch-dir: %w", dir, err), f.Close())
	}
	return f, nil
}

// emptyDir makes dir, or removes what an earlier process left in it.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(errs...)
}

// Handle carries out one task. The error is a *probe.InputError when the source
// is at fault.
func (e *Encoder) Handle(ctx context.Context, t Task) error {
	start := time.Now()
	var err error
	switch t.Kind {
	case catalog.KindPlan:
		err = e.plan(ctx, t)
	case catalog.KindVideo:
		err = e.video(ctx, t)
	case catalog.KindAudio:
		err = e.audio(ctx, t)
	case catalog.KindText:
		err = e.text(ctx, t)
	case catalog.KindExtra:
		err = e.extra(ctx, t)
	default:
		err = fmt.Errorf("task %s: this version can't do kind %q", t.ID, t.Kind)
	}
	var missing *source.MissingError
	if errors.As(err, &missing) {
		e.log.Info("waiting for more of the source", "task", t.ID, "asset", t.Asset, "bytes", missing.Bytes)
		err = t.Await(ctx, missing.Bytes)
	}
	e.metrics.task(t.Kind, time.Since(start), err)
	return err
}

// runPlan returns the run's plan; it never changes once it is complete.
func (e *Encoder) runPlan(ctx context.Context, t Task) (catalog.Plan, error) {
	key := t.Asset + "/" + t.RunName()
	e.mu.Lock()
	p, ok := e.plans[key]
	e.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := t.Plan(ctx)
	if err != nil || p.State.Grows() {
		return p, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.plans) >= maxPlans {
		clear(e.plans)
	}
	e.plans[key] = p
	return p, nil
}

// trackOf decodes the encoder's part of a track.
func trackOf(p catalog.Plan, id string, into any) (catalog.PlanTrack, error) {
	for _, tr := range p.Tracks {
		if tr.ID == id {
			if err := json.Unmarshal(tr.Encoder, into); err != nil {
				return tr, fmt.Errorf("plan of track %s: %w", id, err)
			}
			return tr, nil
		}
	}
	return catalog.PlanTrack{}, fmt.Errorf("plan has no track %q", id)
}

type fetcher struct {
	store     Store
	placement objects.Placement
}

func (f fetcher) Fetch(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, _, err := f.store.Get(ctx, key, offset, length, f.placement)
	return r, err
}

// wall is the longest a child may work on a length of media.
func wall(length time.Duration, perSecond float64) time.Duration {
	return 2*time.Minute + time.Duration(float64(length)*perSecond)
}
