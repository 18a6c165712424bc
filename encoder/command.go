package encoder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
)

// Command is `meridian encoder`.
type Command struct {
	service.Base `embed:""`
	S3           objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
	Postgres     catalog.Config `embed:"" prefix:"postgres-" envprefix:"MERIDIAN_POSTGRES_"`
	ScratchDir   string         `help:"Directory for temporary files; a directory inside it is emptied at the start." default:"/var/tmp/meridian-encoder" env:"MERIDIAN_SCRATCH_DIR" placeholder:"DIR"`
	Slots        int            `help:"Tasks done at once; of four or more, two are kept for the first parts of new videos and one for what viewers may be near. 0: by the number of CPUs." default:"0" env:"MERIDIAN_ENCODER_SLOTS"`
	Threads      int            `help:"x264 threads of each rung, fixed in every run this worker plans. 0: by the number of CPUs." default:"0" env:"MERIDIAN_ENCODER_THREADS"`
	Copy         bool           `help:"Publish H.264 sources that are fit for it as their own highest rung, without encoding them." default:"true" negatable:"" env:"MERIDIAN_ENCODER_COPY"`
	PerTitle     bool           `help:"Fit rungs and rates to each source, where its profile says so." default:"true" negatable:"" env:"MERIDIAN_ENCODER_PER_TITLE"`
	Profiles     string         `help:"File of encoding profiles (YAML), which uploads can ask for by name." env:"MERIDIAN_ENCODER_PROFILES" placeholder:"FILE"`
	MaxHeight    int            `help:"Highest rung, in lines of a 16:9 picture." default:"2160" env:"MERIDIAN_ENCODER_MAX_HEIGHT"`
	MaxDuration  time.Duration  `help:"Longest source accepted." default:"12h" env:"MERIDIAN_ENCODER_MAX_DURATION"`
	Confine      bool           `help:"Confine ffmpeg: to another user, the files of the system and its own, the network port of this encoder, and harmless system calls, as far as the machine lets this encoder do so." default:"true" negatable:"" env:"MERIDIAN_ENCODER_CONFINE"`
	ChildUser    string         `help:"User that ffmpeg runs as when the encoder runs as root." default:"nobody" env:"MERIDIAN_ENCODER_CHILD_USER" placeholder:"USER"`
	Nice         int            `help:"Added to ffmpeg's niceness." default:"5" env:"MERIDIAN_ENCODER_NICE"`
	Memory       uint64         `help:"Address space of one ffmpeg, in MiB." default:"8192" env:"MERIDIAN_ENCODER_MEMORY"`
	MemoryTotal  int64          `help:"Memory all ffmpegs at once may take by estimate, in MiB; others wait. 0: 60 % of the machine's or the control group's." default:"0" env:"MERIDIAN_ENCODER_MEMORY_TOTAL"`
	MaxScratch   uint64         `help:"Largest temporary file, in MiB." default:"262144" env:"MERIDIAN_ENCODER_MAX_SCRATCH"`
}

// Validate reports every problem of the configuration.
func (c *Command) Validate() error {
	errs := []error{c.Base.Validate()}
	check := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	check(filepath.IsAbs(c.ScratchDir), "--scratch-dir %q: want an absolute path", c.ScratchDir)
	check(c.Slots >= 0 && c.Slots <= 256, "--slots %d: want 0 to 256", c.Slots)
	check(c.Threads >= 0 && c.Threads <= 64, "--threads %d: want 0 to 64", c.Threads)
	check(c.MaxHeight >= 240 && c.MaxHeight <= 4320, "--max-height %d: want 240 to 4320", c.MaxHeight)
	check(c.MaxDuration > 0, "--max-duration %s: want more than 0", c.MaxDuration)
	check(c.Nice >= 0 && c.Nice <= 19, "--nice %d: want 0 to 19", c.Nice)
	check(!c.Confine || c.ChildUser != "", "--child-user: must not be empty")
	check(c.Memory >= 1024, "--memory %d: want at least 1024 MiB", c.Memory)
	check(c.MemoryTotal >= 0, "--memory-total %d: want 0 or more MiB", c.MemoryTotal)
	check(c.MaxScratch >= 64, "--max-scratch %d: want at least 64 MiB", c.MaxScratch)
	check(c.S3.AccessKey != "" && c.S3.SecretKey != "" && c.S3.Bucket != "", "--s3-access-key, --s3-secret-key, --s3-bucket: must not be empty")
	_, err := c.profiles()
	return errors.Join(append(errs, err)...)
}

// profiles are those of the file, within what the flags allow; with the default among them.
func (c *Command) profiles() (plan.Profiles, error) {
	threads := c.Threads
	if threads == 0 {
		threads = min(max(runtime.GOMAXPROCS(0), 2), 8)
	}
	all := plan.Profiles{plan.DefaultName: plan.Default(threads)}
	if c.Profiles != "" {
		f, err := os.Open(c.Profiles)
		if err != nil {
			return nil, fmt.Errorf("--profiles: %w", err)
		}
		defer f.Close()
		if all, err = plan.LoadProfiles(f, threads); err != nil {
			return nil, fmt.Errorf("--profiles %s:\n%w", c.Profiles, err)
		}
	}
	for name, p := range all {
		p.Copy = p.Copy && c.Copy
		p.PerTitle.Enabled = p.PerTitle.Enabled && c.PerTitle
		for len(p.Rungs) > 1 && p.Rungs[0] > c.MaxHeight {
			p.Rungs = p.Rungs[1:]
		}
		all[name] = p
	}
	return all, nil
}

// Run runs an encoder until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	return service.Run(ctx, "encoder", &c.Base, c.Validate, c.build)
}

// pixelsPerCPU is taken for a worker's speed in the first second, until it has measured its
// own: pixels x264 veryfast encodes per second on one CPU.
const pixelsPerCPU = 60e6

func (c *Command) options() (Options, error) {
	profiles, err := c.profiles()
	if err != nil {
		return Options{}, err
	}
	cpus := runtime.GOMAXPROCS(0)
	memory := c.MemoryTotal << 20
	if memory == 0 {
		memory = int64(float64(machineMemory()) * memoryShare)
	}
	limits := probe.DefaultLimits()
	limits.Duration = c.MaxDuration
	return Options{Profile: profiles[plan.DefaultName], Profiles: profiles, Source: limits, Speed: plan.Speed{Pixels: pixelsPerCPU * float64(cpus)},
		Scratch: c.ScratchDir, Memory: memory, Confine: c.Confine, User: c.ChildUser,
		Child: ffmpeg.Limits{Nice: c.Nice, AddressSpace: c.Memory << 20, FileSize: c.MaxScratch << 20,
			Wall: 30 * time.Minute, Idle: time.Minute}}, nil
}

type component struct {
	encoder *Encoder
	worker  *jobs.Worker
	catalog *catalog.Catalog
	conn    *jobs.Conn
	store   *objects.Store
}

func (c *Command) build(ctx context.Context, rt *service.Runtime) (service.Component, error) {
	store, err := objects.New(rt.Table, rt.Region.Name, c.S3, rt.Log)
	if err != nil {
		return nil, err
	}
	control := 0
	for _, r := range rt.Table.Regions {
		if r.Control {
			control++
		}
	}
	opt, err := c.options()
	if err != nil {
		return nil, err
	}
	e, err := New(ctx, store, opt, rt.Log, NewMetrics(rt.Metrics))
	if err != nil {
		return nil, err
	}
	build, err := e.Build(ctx)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	cat, err := catalog.Open(c.Postgres.DSN(rt.Table.PostgresDSNHosts(rt.Region.Name)), rt.Table.Farthest(rt.Region.Name), rt.Log)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	conn, err := jobs.Connect(rt.Table.NATSURLs(rt.Region.Name), control, rt.Log)
	if err != nil {
		cat.Close()
		return nil, errors.Join(err, e.Close())
	}
	slots := c.Slots
	if slots == 0 {
		slots = 3 + max(1, runtime.GOMAXPROCS(0)/4)
	}
	w := &jobs.Worker{Catalog: cat, Conn: conn, Objects: store, Region: rt.Region.Name, Regions: rt.Table.Names(),
		Slots: slots, Build: build, Handle: e.handler(), Log: rt.Log, Metrics: jobs.NewMetrics(rt.Metrics)}
	return &component{encoder: e, worker: w, catalog: cat, conn: conn, store: store}, nil
}

// handler adapts Handle to the worker.
func (e *Encoder) handler() jobs.Handler {
	return func(ctx context.Context, t *jobs.Task) error {
		err := e.Handle(ctx, Task{Task: t.Task, Claim: t})
		var bad *probe.InputError
		if errors.As(err, &bad) {
			return jobs.BadInput(string(bad.Code), "%s", bad.Detail)
		}
		return err
	}
}

// Run does tasks until ctx ends.
func (c *component) Run(ctx context.Context) error {
	defer c.catalog.Close()
	defer c.conn.Close()
	defer c.store.Close()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.worker.Run(gctx) })
	g.Go(func() error {
		c.encoder.measureSpeed(gctx)
		return nil
	})
	return errors.Join(g.Wait(), c.encoder.Close())
}

// Ready says whether everything a task needs answers.
func (c *component) Ready(ctx context.Context) error {
	var errs []error
	for name, ready := range map[string]func(context.Context) error{"catalog": c.catalog.Ready, "jobs": c.conn.Ready, "objects": c.store.Ready} {
		if err := ready(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if _, err := os.Stat(c.encoder.opt.Scratch); err != nil {
		errs = append(errs, fmt.Errorf("scratch directory: %w", err))
	}
	return errors.Join(errs...)
}
