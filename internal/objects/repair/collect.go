package repair

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// loserAge is how long the objects of an attempt that lost stay: long enough
	// for whatever of it was still under way.
	loserAge = time.Hour
	// unknownAge is how long an object stays that the catalog names nowhere.
	unknownAge = 24 * time.Hour
	// maxUnknown bounds the unknown objects deleted by one search.
	maxUnknown = 10_000
	// maxGroup bounds the rival objects looked at together.
	maxGroup = 10_000
)

// collect searches the own store for what no longer counts, from time to time.
func (r *Repair) collect(ctx context.Context) {
	for pause := min(collectFirst, r.cfg.Collect); sleep.For(ctx, jitter(pause)) == nil; pause = r.cfg.Collect {
		if err := r.search(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.Log.Info("repair: nothing is deleted for now", "err", err)
		}
	}
}

// search looks through the own store once. It stops at the first question the
// leader doesn't answer.
func (r *Repair) search(ctx context.Context, now time.Time) error {
	s := &search{r: r, repeated: map[string]bool{}, now: now}
	for _, prefix := range []string{"streams/", "sources/", "work/"} {
		if err := pages(ctx, r.regions[0], prefix, func(page []objects.Info) error { return s.page(ctx, page) }); err != nil {
			return err
		}
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	return s.forget(ctx)
}

// search is one walk over the own store.
type search struct {
	r        *Repair
	now      time.Time
	repeated map[string]bool // clean-ups asked for
	// strangers are assets the leader doesn't know, acquainted those it does,
	// counted once a page.
	strangers, acquainted int
	unknown               []string // old keys of strangers
	group                 string   // prefix of the rivals below
	rivals                []objects.Info
}

// page sorts out what the leader says about the assets of a page.
func (s *search) page(ctx context.Context, page []objects.Info) error {
	seen := map[string]bool{}
	var ids []string
	for _, i := range page {
		if o, ok := classify(i.Key); ok && o.asset != "" && !seen[o.asset] {
			seen[o.asset] = true
			ids = append(ids, o.asset)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	remains, err := s.r.Catalog.Remains(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := remains[id]; ok {
			s.acquainted++
		} else {
			s.strangers++
		}
	}
	for _, i := range page {
		o, ok := classify(i.Key)
		if !ok || o.asset == "" {
			continue
		}
		if _, known := remains[o.asset]; !known {
			if s.now.Sub(i.Modified) > unknownAge && len(s.unknown) < maxUnknown {
				s.unknown = append(s.unknown, i.Key)
			}
			continue
		}
		if task := remains[o.asset].Covers(i.Key); task != "" {
			if err := s.repeat(ctx, task, i.Key); err != nil {
				return err
			}
			continue
		}
		if err := s.rival(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// repeat hands what came back after a clean-up to the janitor.
func (s *search) repeat(ctx context.Context, task, key string) error {
	if s.repeated[task] {
		return nil
	}
	s.repeated[task] = true
	s.r.Log.Info("repair: objects came back after their clean-up, which is repeated", "task", task, "key", key)
	s.r.Metrics.repeat()
	return s.r.Catalog.RepeatCleanup(ctx, task)
}

// rival gathers objects of which one attempt's count: keys that are equal up to
// the fence, which a listing has side by side.
func (s *search) rival(ctx context.Context, i objects.Info) error {
	group, _, ok := fenced(i.Key)
	if !ok {
		return nil
	}
	if group != s.group {
		if err := s.settle(ctx); err != nil {
			return err
		}
		s.group = group
	}
	if len(s.rivals) < maxGroup {
		s.rivals = append(s.rivals, i)
	}
	return nil
}

// fenced splits a fenced key into what rivals share and the fence: a segment's
// chunk and attempt, a part's number and id.
func fenced(key string) (group, fence string, ok bool) {
	f := strings.Split(key, "/")
	var at int
	switch {
	case len(f) == 6 && f[0] == "streams" && (strings.HasSuffix(f[5], ".m4s") || strings.HasSuffix(f[5], ".vtt")):
		at = 4
	case len(f) == 4 && f[0] == "sources" && f[2] == "parts":
		at = 3
	default:
		return "", "", false
	}
	n, fence, ok := strings.Cut(f[at], "-")
	return strings.Join(f[:at], "/") + "/" + n, fence, ok
}

// settle deletes the rivals that lost, if there are any and the leader names the winner.
func (s *search) settle(ctx context.Context) error {
	group, rivals := s.group, s.rivals
	s.group, s.rivals = "", nil
	fences := map[string]bool{}
	for _, i := range rivals {
		_, fence, _ := fenced(i.Key)
		fences[fence] = true
	}
	if len(fences) < 2 {
		return nil
	}
	winner, age, err := s.winner(ctx, group)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil // still open
	}
	if err != nil {
		return err
	}
	for _, i := range rivals {
		if _, fence, _ := fenced(i.Key); fence == winner || s.now.Sub(i.Modified) < age {
			continue
		}
		if err := s.delete(ctx, i.Key, "superseded"); err != nil {
			return err
		}
	}
	return nil
}

// winner asks the leader whose objects count, and says how old others must be.
func (s *search) winner(ctx context.Context, group string) (fence string, age time.Duration, err error) {
	f := strings.Split(group, "/")
	n, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return "", 0, catalog.ErrNotFound // not a key of ours
	}
	if f[0] == "sources" {
		fence, err = s.r.Catalog.PartWinner(ctx, f[1], n)
		return fence, unknownAge, err
	}
	run, err := strconv.Atoi(strings.TrimPrefix(f[2], "r"))
	if err != nil {
		return "", 0, catalog.ErrNotFound
	}
	attempt, err := s.r.Catalog.ChunkWinner(ctx, f[1], run, f[3], n)
	return strconv.Itoa(attempt), loserAge, err
}

// forget deletes what the catalog has never heard of, unless that is most of
// the store.
func (s *search) forget(ctx context.Context) error {
	if len(s.unknown) == 0 {
		return nil
	}
	if s.strangers >= s.acquainted {
		s.r.Metrics.alarm("unknown", s.r.regions[0].Region)
		return fmt.Errorf("the catalog knows %d assets of the store's and not the other %d: if it is the right one, delete those by hand", s.acquainted, s.strangers)
	}
	for _, key := range s.unknown {
		if err := s.delete(ctx, key, "unknown"); err != nil {
			return err
		}
	}
	return nil
}

func (s *search) delete(ctx context.Context, key, reason string) error {
	if err := s.r.regions[0].Delete(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	s.r.Log.Info("repair: deleted", "key", key, "reason", reason)
	s.r.Metrics.removed(reason)
	return nil
}
