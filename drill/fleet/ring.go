package fleet

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// holdRouter is how long a router that failed is asked last.
const holdRouter = 10 * time.Second

// ring is the platform's routers as one resource: a request goes to the router
// its URL names or, when that one has just failed, to the next.
type ring struct {
	bases []string

	mu     sync.Mutex
	failed map[string]time.Time
}

func newRing(bases []string) *ring { return &ring{bases: bases, failed: map[string]time.Time{}} }

func (r *ring) base(url string) string {
	for _, b := range r.bases {
		if rest, ok := strings.CutPrefix(url, b); ok && (rest == "" || rest[0] == '/' || rest[0] == '?') {
			return b
		}
	}
	return ""
}

// candidates are the URLs under which url can be asked for, best first; url
// alone if it isn't at a router.
func (r *ring) candidates(url string, now time.Time) []string {
	own := r.base(url)
	if own == "" {
		return []string{url}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(r.bases, own)
	out := append(slices.Clone(r.bases[at:]), r.bases[:at]...)
	held := func(b string) time.Time {
		if t, ok := r.failed[b]; ok && now.Sub(t) < holdRouter {
			return t
		}
		return time.Time{}
	}
	slices.SortStableFunc(out, func(a, b string) int { return held(a).Compare(held(b)) })
	for i, b := range out {
		out[i] = b + url[len(own):]
	}
	return out
}

func (r *ring) answered(url string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.failed, r.base(url))
}

func (r *ring) fail(url string, now time.Time) {
	if b := r.base(url); b != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failed[b] = now
	}
}
