package target

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
)

// Target is a platform under drill. Its methods may be called concurrently.
type Target interface {
	// Describe says where everything is; called once.
	Describe(ctx context.Context) (*Description, error)
	// Status says how the platform is.
	Status(ctx context.Context) (Status, error)
	// Prepare does what takes time before a fault can be made in a moment; Heal undoes
	// it, too.
	Prepare(ctx context.Context, f Fault) error
	// Apply makes a fault and returns when it is there.
	Apply(ctx context.Context, f Fault) error
	// Heal undoes a fault.
	Heal(ctx context.Context, f Fault) error
}

// Place is where viewers near a region are.
type Place struct {
	// Near is the region's name.
	Near string
	// Sources are addresses viewers may have. At least one.
	Sources []netip.Addr
	// From returns what connects from one of them.
	From func(source netip.Addr) resolver.Dial
}

// Description is what doesn't change during a drill.
type Description struct {
	// Name of the target: "meridian up --isolated".
	Name string
	// Table as the drill reaches it.
	Table *region.Table
	// Places in the order of the table's regions, one for each.
	Places []Place
	// APIKey of a creator; the APIs are in the table.
	APIKey string
	// Reconcile compares all stores with the catalog; read has every byte compared.
	Reconcile func(ctx context.Context, read bool) (repair.Report, error)
	// Leader is the region whose PostgreSQL leads.
	Leader func(ctx context.Context) (string, error)
	// Close lets go of what the description holds.
	Close func() error
}

// Status of a platform.
type Status struct {
	// Whole is nil when every region is up and every process ready, else what isn't.
	Whole error
	// Down are the regions that are not up.
	Down []string
}

// Fault is a step whose region has been found.
type Fault struct {
	// Step is what was asked for. Its On is not set: Region is where it happens.
	scenario.Step
	Region string
}

func (f Fault) String() string {
	s := f.Step
	s.On, s.For = f.Region, 0
	return s.String()
}

// takesAway reports whether what it is done to is gone meanwhile, not only worse.
func (f Fault) takesAway() bool { return f.Fault != scenario.Slow && f.Fault != scenario.Fill }

// Hits are the edges that a fault takes away.
func (f Fault) Hits(t *region.Table) []string {
	r, ok := t.Get(f.Region)
	if !ok || !f.takesAway() {
		return nil
	}
	var out []string
	for i, e := range r.Edges {
		if f.Process == "" || f.Process == e.Name || f.Process == fmt.Sprintf("edge-%d", i+1) {
			out = append(out, e.Name)
		}
	}
	return out
}

// TakesRegion reports whether a fault takes all edges of its region away.
func (f Fault) TakesRegion(t *region.Table) bool {
	r, ok := t.Get(f.Region)
	return ok && len(f.Hits(t)) == len(r.Edges)
}

// Resolve finds the region of a step.
func (d *Description) Resolve(ctx context.Context, s scenario.Step) (Fault, error) {
	f := Fault{Step: s, Region: s.On}
	f.On = ""
	names := d.Table.Names()
	nth := func(n int) error {
		if n >= len(names) {
			return fmt.Errorf("step %q: the platform has %d regions: name one of %v", s, len(names), names)
		}
		f.Region = names[n]
		return nil
	}
	switch s.On {
	case scenario.First:
		return f, nth(0)
	case scenario.Second:
		return f, nth(1)
	case scenario.Third:
		return f, nth(2)
	case scenario.Leader, scenario.Follower:
		ctx, cancel := context.WithTimeout(ctx, leaderTime)
		defer cancel()
		leader, err := d.Leader(ctx)
		if err != nil {
			return f, fmt.Errorf("step %q: %w", s, err)
		}
		f.Region = leader
		if s.On == scenario.Follower {
			i := slices.IndexFunc(names, func(n string) bool { return n != leader })
			return f, nth(max(i, 0))
		}
		return f, nil
	}
	if !slices.Contains(names, s.On) {
		return f, fmt.Errorf("step %q: no region %q: want one of %v, leader, follower, first, second or third", s, s.On, names)
	}
	return f, nil
}

// leaderTime is how long a leader is looked for: long enough for an election.
const leaderTime = 30 * time.Second
