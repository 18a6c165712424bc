package geodns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
)

const (
	// maxRoutingBytes has room for the most overrides an entry may have.
	maxRoutingBytes = 1 << 20
	// routingAge is how old an entry may be when it is handed in: one that was
	// signed and never counted must not come back weeks later.
	routingAge = 5 * time.Minute
	// routingTimeout bounds handing one in.
	routingTimeout = 12 * time.Second
)

// Routes is the routing journal; Server's is in the object stores.
type Routes interface {
	// Current is the newest entry this router obeys, the zero value without one.
	Current() journal.Routing
	// Verify checks an entry and its signature; errNoKeys before the key set is known.
	Verify(entry []byte) (journal.Routing, error)
	// Write adds the entry, which has number n. journal.ErrRoutingRace when n is
	// not the next number, or is taken.
	Write(ctx context.Context, n int64, entry []byte) error
}

var errNoKeys = errors.New("the key set is not known yet")

// storedRoutes is the journal in the object stores.
type storedRoutes struct {
	*journal.Routes
	store *objects.Store
	keys  *journal.Keys
}

func (s storedRoutes) Verify(entry []byte) (journal.Routing, error) {
	ks := s.keys.Current()
	if ks == nil {
		return journal.Routing{}, errNoKeys
	}
	return journal.VerifyRouting(entry, ks, time.Now())
}

func (s storedRoutes) Write(ctx context.Context, n int64, entry []byte) error {
	newest, err := journal.Newest(ctx, s.store, objects.RoutingJournal)
	if err != nil && !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	// The newest number itself is a repetition, if its bytes are the same.
	if n != newest+1 && n != max(newest, 1) {
		return journal.ErrRoutingRace
	}
	return journal.WriteRouting(ctx, s.store, n, entry)
}

// routing answers what operators have told the routers, as this one obeys it.
// PUT hands in the next entry. Nobody is let in by a password: the entry is signed
// by a record key, which the router doesn't have, holds everything, and its number
// counts once.
func (rt *router) routing(w http.ResponseWriter, r *http.Request) {
	current := rt.routes.Current()
	if r.Method == http.MethodPut {
		var refused *refusal
		if current, refused = rt.takeRouting(r); refused != nil {
			rt.metrics.routing.WithLabelValues("refused").Inc()
			rt.log.Warn("routing: entry refused", "from", r.RemoteAddr, "status", refused.status, "why", refused.detail)
			problem(w, refused.status, refused.detail)
			return
		}
		rt.metrics.routing.WithLabelValues("written").Inc()
		rt.log.Info("routing: entry written", "from", r.RemoteAddr, "n", current.N)
	}
	h := w.Header()
	cors(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	if wantsJSON(r) {
		h.Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(current) // the client has gone
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, routingText(rt.table.Names(), current)) // the client has gone
}

// takeRouting checks and writes an entry.
func (rt *router) takeRouting(r *http.Request) (journal.Routing, *refusal) {
	entry, err := io.ReadAll(io.LimitReader(r.Body, maxRoutingBytes+1))
	if err != nil {
		return journal.Routing{}, &refusal{status: http.StatusBadRequest, detail: "the entry did not arrive whole"}
	}
	if len(entry) > maxRoutingBytes {
		return journal.Routing{}, &refusal{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("want at most %d bytes", maxRoutingBytes)}
	}
	want, err := rt.routes.Verify(entry)
	if errors.Is(err, errNoKeys) {
		return want, &refusal{status: http.StatusServiceUnavailable, detail: err.Error() + ": try again, or write to the object stores"}
	}
	if err != nil {
		// Why is for the log of whoever holds the key, not for strangers.
		rt.log.Debug("routing: entry not verified", "err", err)
		return want, &refusal{status: http.StatusForbidden, detail: "want a routing entry signed by a record key in force"}
	}
	if age := rt.now().Sub(want.At); age > routingAge || age < -routingAge {
		return want, &refusal{status: http.StatusForbidden, detail: fmt.Sprintf("the entry is signed for %v, and here it is %v: want a difference of at most %v",
			want.At.Format(time.RFC3339), rt.now().UTC().Format(time.RFC3339), routingAge)}
	}
	current := rt.routes.Current()
	if err := errors.Join(knownRegions(rt.table, want, regionsOf(current)), rt.knownSystems(want, current)); err != nil {
		return want, &refusal{status: http.StatusUnprocessableEntity, detail: err.Error()}
	}
	ctx, cancel := context.WithTimeout(r.Context(), routingTimeout)
	defer cancel()
	err = rt.routes.Write(ctx, want.N, entry)
	switch {
	case errors.Is(err, journal.ErrRoutingRace):
		return want, &refusal{status: http.StatusConflict, detail: err.Error()}
	case err != nil:
		return want, &refusal{status: http.StatusServiceUnavailable, detail: err.Error()}
	}
	return want, nil
}

// regionsOf names the regions of an entry, in order.
func regionsOf(r journal.Routing) []string {
	names := slices.Collect(maps.Keys(r.Regions))
	for _, o := range r.Overrides {
		names = append(names, o.Region)
	}
	for _, o := range r.Systems {
		names = append(names, o.Region)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// knownRegions returns an error for each region of an entry that isn't in the
// table, and wasn't named before either: a drained region that was taken out of
// the table must not keep the others from being drained.
func knownRegions(t *region.Table, r journal.Routing, before []string) error {
	var errs []error
	for _, name := range regionsOf(r) {
		if _, ok := t.Get(name); !ok && !slices.Contains(before, name) {
			errs = append(errs, fmt.Errorf("region %q: not in the region table (has %v)", name, t.Names()))
		}
	}
	return errors.Join(errs...)
}

// knownSystems returns an error for each autonomous system whose override is new,
// while this router can't tell who belongs to it.
func (rt *router) knownSystems(r, before journal.Routing) error {
	if rt.board.Load().Systems != nil {
		return nil
	}
	var errs []error
	for _, o := range r.Systems {
		if !slices.ContainsFunc(before.Systems, func(b journal.SystemOverride) bool { return b.AS == o.AS }) {
			errs = append(errs, fmt.Errorf("override %v: this router doesn't know the networks of autonomous systems: give it --asn-database", geo.AS(o.AS)))
		}
	}
	return errors.Join(errs...)
}

// routingText is one line for each region and override.
func routingText(regions []string, r journal.Routing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "routing %d\n", r.N)
	for _, name := range regions {
		s := r.Regions[name]
		state, weight := "in service", 1.0
		if s.Drained {
			state = "drained"
		}
		if s.Weight != nil {
			weight = *s.Weight
		}
		fmt.Fprintf(&b, "%s  %s  weight %g\n", name, state, weight)
	}
	for _, o := range r.Overrides {
		fmt.Fprintf(&b, "%s  to %s\n", o.Network, o.Region)
	}
	for _, o := range r.Systems {
		fmt.Fprintf(&b, "%s  to %s\n", geo.AS(o.AS), o.Region)
	}
	return b.String()
}
