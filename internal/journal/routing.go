package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// Routing is one entry of the routing journal: all that operators have told
// routers, so that the newest entry is enough. The zero value says nothing.
type Routing struct {
	// N is the entry's number.
	N  int64     `json:"n"`
	At time.Time `json:"at"`
	// Regions by name; those left out have weight 1 and aren't drained.
	Regions map[string]RegionRouting `json:"regions,omitempty"`
	// Overrides send networks to regions; the longest network counts.
	Overrides []RoutingOverride `json:"overrides,omitempty"`
	// Systems are overrides of autonomous systems; those of networks go before them.
	// They stand apart from Overrides because routers that don't know them refuse an
	// entry with an override without a network.
	Systems []SystemOverride `json:"systems,omitempty"`
}

// RegionRouting is what operators want of a region.
type RegionRouting struct {
	// Drained regions are offered after all others that work.
	Drained bool `json:"drained,omitempty"`
	// Weight below 1 is the share of its viewers the region takes; nil is 1.
	Weight *float64 `json:"weight,omitempty"`
}

// RoutingOverride sends a network's viewers to a region.
type RoutingOverride struct {
	Network netip.Prefix `json:"network"`
	Region  string       `json:"region"`
}

// SystemOverride sends an autonomous system's viewers to a region.
type SystemOverride struct {
	AS     uint32 `json:"as"`
	Region string `json:"region"`
}

const (
	routingType = "meridian-routing"
	// MaxOverrides bounds the overrides of an entry, of both kinds.
	MaxOverrides = 4096
	maxWeight    = 100
)

// SignRouting returns the entry's bytes as they are stored, signed by a record key.
func SignRouting(r Routing, s *token.Signer) ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	return token.Sign(r, routingType, s)
}

// VerifyRouting checks and decodes a stored entry.
func VerifyRouting(b []byte, ks *token.KeySet, now time.Time) (Routing, error) {
	var r Routing
	if err := token.Verify(b, routingType, ks, token.UseRecord, now, &r); err != nil {
		return Routing{}, fmt.Errorf("routing: %w", err)
	}
	if err := r.Check(); err != nil {
		return Routing{}, fmt.Errorf("%w: %w", token.ErrForged, err)
	}
	return r, nil
}

// Check returns every problem of an entry.
func (r Routing) Check() error {
	var errs []error
	if r.N < 1 {
		errs = append(errs, fmt.Errorf("routing %d: want a positive number", r.N))
	}
	for name, g := range r.Regions {
		if w := g.Weight; w != nil && (math.IsNaN(*w) || *w < 0 || *w > maxWeight) {
			errs = append(errs, fmt.Errorf("region %s: weight %v: want 0 to %d", name, *w, maxWeight))
		}
	}
	if n := len(r.Overrides) + len(r.Systems); n > MaxOverrides {
		errs = append(errs, fmt.Errorf("%d overrides: want at most %d", n, MaxOverrides))
	}
	for _, o := range r.Systems {
		if o.AS == 0 || o.Region == "" {
			errs = append(errs, fmt.Errorf("override AS%d to %q: want a positive number, and a region", o.AS, o.Region))
		}
	}
	for _, o := range r.Overrides {
		if !o.Network.IsValid() || o.Network != o.Network.Masked() || o.Network.Addr().Is4In6() || o.Region == "" {
			errs = append(errs, fmt.Errorf("override %v to %q: want a network without bits behind its prefix, and a region", o.Network, o.Region))
		}
	}
	return errors.Join(errs...)
}

// Routes follows the routing journal.
type Routes struct {
	store    *objects.Store
	keys     *Keys
	log      *slog.Logger
	current  atomic.Pointer[Routing]
	changed  func(Routing) error
	follower *follower[Routing]
}

// NewRoutes returns a follower that believes entries signed by a record key and
// calls changed with each, from one goroutine. An entry that changed refuses is
// offered again with the next look.
func NewRoutes(store *objects.Store, keys *Keys, changed func(Routing) error, log *slog.Logger) *Routes {
	r := &Routes{store: store, keys: keys, log: log, changed: changed}
	r.follower = &follower[Routing]{store: store, journal: objects.RoutingJournal, entries: routingEntries{r}, log: log}
	return r
}

// Current returns the newest entry seen, the zero value before the first.
func (r *Routes) Current() Routing {
	if c := r.current.Load(); c != nil {
		return *c
	}
	return Routing{}
}

// Run follows the journal until ctx ends; it waits for a key set first.
func (r *Routes) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.keys.Known():
	}
	return r.follower.run(ctx)
}

type routingEntries struct{ *Routes }

// start at the newest: an entry says everything.
func (r routingEntries) start(_ context.Context, newest int64) (int64, error) {
	return max(newest, 1), nil
}

func (r routingEntries) decode(b []byte) (Routing, int64, error) {
	e, err := VerifyRouting(b, r.keys.Current(), time.Now())
	return e, e.N, err
}

func (r routingEntries) apply(n int64, e Routing) error {
	if err := r.changed(e); err != nil {
		return err
	}
	r.current.Store(&e)
	r.log.Info("routing", "n", n, "regions", len(e.Regions), "overrides", len(e.Overrides)+len(e.Systems))
	return nil
}

func (r routingEntries) lost(n, newest int64, _ error) (int64, error) {
	return max(n, newest), nil
}

// ErrRoutingRace says that someone else changed the routing at the same time.
var ErrRoutingRace = errors.New("routing was changed by someone else at the same time: look, and try again")

// writeTimeout bounds writing an entry.
const writeTimeout = 10 * time.Second

// ChangeRouting writes the next entry of the routing journal, which is what
// change makes of the newest. It asks nothing but the object stores: a majority
// of all regions must take the entry, and none may have another with its number,
// so of two who write at once at most one succeeds, and the other's leftovers are
// overruled by the next number.
func ChangeRouting(ctx context.Context, store *objects.Store, ks *token.KeySet, s *token.Signer, change func(*Routing) error) (Routing, error) {
	var r Routing
	n, err := Newest(ctx, store, objects.RoutingJournal)
	switch {
	case errors.Is(err, objects.ErrNotFound):
	case err != nil:
		return r, err
	default:
		b, err := Read(ctx, store, objects.RoutingJournal, n)
		if err != nil {
			return r, err
		}
		if r, err = VerifyRouting(b, ks, time.Now()); err != nil {
			return r, err
		}
	}
	if err := change(&r); err != nil {
		return r, err
	}
	r.N, r.At = n+1, time.Now().UTC().Truncate(time.Second)
	body, err := SignRouting(r, s)
	if err != nil {
		return r, err
	}
	return r, WriteRouting(ctx, store, r.N, body)
}

// WriteRouting writes a signed entry under its number: to all regions, and a
// majority must take it. ErrRoutingRace when one of them has another.
func WriteRouting(ctx context.Context, store *objects.Store, n int64, body []byte) error {
	return write(ctx, store, objects.RoutingJournal, n, body, ErrRoutingRace)
}

// write gives an entry to all regions, of which a majority must take it. race is
// returned when one of them has another.
func write(ctx context.Context, store *objects.Store, journal string, n int64, body []byte, race error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	buckets := store.Regions()
	taken, conflict, errs := putAll(ctx, buckets, objects.JournalKey(journal, n), body)
	if conflict {
		return race
	}
	if taken <= len(buckets)/2 {
		return fmt.Errorf("%s%d: taken by %d of %d regions, which may or may not make it count: look, and try again: %w",
			journal, n, taken, len(buckets), errors.Join(errs...))
	}
	return nil
}
