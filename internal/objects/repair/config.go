package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// Config is what an operator may tune.
type Config struct {
	Interval  time.Duration `help:"Pause between two comparisons of the region's store with the others." default:"60s" env:"INTERVAL"`
	Collect   time.Duration `help:"Pause between two searches for objects that no longer count." default:"10m" env:"COLLECT"`
	Parallel  int           `help:"Objects copied at a time." default:"8" env:"PARALLEL"`
	Bandwidth int           `help:"Most mebibytes copied per second." default:"64" env:"BANDWIDTH" placeholder:"MIB"`
}

// Validate names every problem.
func (c Config) Validate() error {
	var errs []error
	if c.Interval < time.Second {
		errs = append(errs, fmt.Errorf("--repair-interval %v: want at least 1s", c.Interval))
	}
	if c.Collect < time.Second {
		errs = append(errs, fmt.Errorf("--repair-collect %v: want at least 1s", c.Collect))
	}
	if c.Parallel < 1 || c.Parallel > 64 {
		errs = append(errs, fmt.Errorf("--repair-parallel %d: want 1 to 64", c.Parallel))
	}
	if c.Bandwidth < 1 {
		errs = append(errs, fmt.Errorf("--repair-bandwidth %d: want at least 1", c.Bandwidth))
	}
	return errors.Join(errs...)
}

// Catalog is what repair asks PostgreSQL; *catalog.Catalog is one.
type Catalog interface {
	Holdings(ctx context.Context, ids []string) (map[string]catalog.Holding, error)
	Remains(ctx context.Context, ids []string) (map[string]catalog.Remains, error)
	RepeatCleanup(ctx context.Context, task string) error
	ChunkWinner(ctx context.Context, asset string, run int, rendition string, chunk int) (int, error)
	PartWinner(ctx context.Context, asset string, n int) (string, error)
}

// Deps are what a loop works with.
type Deps struct {
	Store   *objects.Store
	Catalog Catalog
	// Keys returns the newest key set, nil while none is known.
	Keys func() *token.KeySet
	Log  *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Repair is a region's loop. Make it with New, call Run once.
type Repair struct {
	Deps
	cfg      Config
	regions  []*objects.Bucket // own first, then by round-trip time
	resolver *resolver
	slots    *semaphore.Weighted
	limiter  *rate.Limiter
	kick     chan struct{}

	mu     sync.Mutex
	hints  map[string]bool      // prefix to look at → whether young objects are left to their writers
	later  map[string]time.Time // prefix → when to look at it again
	hinted chan struct{}
	silent map[string]time.Time // region → not asked for hints until

	status atomic.Pointer[Status]
}

// maxHints bounds the prefixes waiting; beyond, a full pass does for all.
const maxHints = 10_000

// New returns the loop of the store's own region.
func New(cfg Config, d Deps) *Repair {
	r := &Repair{Deps: d, cfg: cfg, regions: d.Store.Regions(), slots: semaphore.NewWeighted(int64(cfg.Parallel)),
		limiter: rate.NewLimiter(rate.Limit(cfg.Bandwidth<<20), max(cfg.Bandwidth<<20, burst)), kick: make(chan struct{}, 1),
		hints: map[string]bool{}, later: map[string]time.Time{}, hinted: make(chan struct{}, 1), silent: map[string]time.Time{}}
	r.resolver = newResolver(d)
	r.status.Store(&Status{})
	return r
}

// Status is how the region's store stands.
type Status struct {
	// Passes is how many full passes have ended well; LastPass is when the last one did.
	Passes   int
	LastPass time.Time
	// Behind is how many objects the own store was found to lack and still lacks.
	Behind int
	// Unplaced is how many it lacks of which it isn't known whether they belong here.
	Unplaced int
	// Skipped are the regions the last pass could not compare with.
	Skipped []string
	// Err is why the last pass failed, nil if it didn't.
	Err error
}

// Status returns how the store stands after the last full pass.
func (r *Repair) Status() Status { return *r.status.Load() }

// growPause is how long after a sign of growth, or after a pass has left young
// objects to their writers, is looked again: what was young is settled then, and
// many signs make one look.
const growPause = young + time.Second

// Hint says that an asset has new objects: whole for all of them, else only its
// playback records. Never needed, only faster.
func (r *Repair) Hint(asset string, whole bool) {
	if whole {
		r.put(objects.StreamPrefix(asset), false)
	} else {
		r.put(objects.PlaybackJournal(asset), false)
	}
}

// Grew says that an asset's encode has brought more, which is looked for after a
// moment. Never needed, only faster.
func (r *Repair) Grew(asset string) { r.lookAgain(objects.StreamPrefix(asset)) }

// lookAgain at the objects below a prefix, when those that are young now are settled.
func (r *Repair) lookAgain(prefix string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.later[prefix]; !ok && len(r.later) < maxHints {
		r.later[prefix] = time.Now().Add(growPause)
	}
}

// due turns into hints what is to be looked at again now.
func (r *Repair) due(now time.Time) {
	var due []string
	r.mu.Lock()
	for prefix, at := range r.later {
		if !now.Before(at) {
			due = append(due, prefix)
			delete(r.later, prefix)
		}
	}
	r.mu.Unlock()
	for _, prefix := range due {
		r.put(prefix, true)
	}
}

func (r *Repair) put(prefix string, settled bool) {
	r.mu.Lock()
	full := len(r.hints) >= maxHints
	if !full {
		if other, ok := r.hints[prefix]; ok {
			settled = settled && other
		}
		r.hints[prefix] = settled
	}
	r.mu.Unlock()
	if full {
		r.Soon()
		return
	}
	poke(r.hinted)
}

// Soon has the next full pass start at once.
func (r *Repair) Soon() { poke(r.kick) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
