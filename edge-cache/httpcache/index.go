package httpcache

import (
	"container/list"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxVariants bounds the responses kept for one URI.
	maxVariants = 32
	// passFor is how long a URI whose answers can't be shared isn't waited for.
	passFor = 2 * time.Minute
)

// index finds stored responses by URI and Surrogate-Key, least recently used
// dropped first.
type index struct {
	capacity int64
	// journal is told what is stored, and what isn't any more for another reason than
	// room; nil without.
	journal *journal

	mu     sync.Mutex
	bytes  int64
	byURI  map[string]*list.Element
	recent list.List // of *entry
	byKey  map[string]map[*entry]struct{}
}

type entry struct {
	uri       string
	responses []*response // newest first
	bytes     int64
	// passUntil: requests aren't collapsed before; where the whole is only too large,
	// those for parts are.
	passUntil time.Time
	large     bool
}

func newIndex(capacity int64) *index {
	return &index{capacity: capacity, byURI: map[string]*list.Element{}, byKey: map[string]map[*entry]struct{}{}}
}

// find returns the newest response that answers a request with these fields;
// known: there is one that answers others.
func (x *index) find(uri string, h http.Header) (s *response, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[uri]
	if !ok {
		return nil, false
	}
	x.recent.MoveToFront(el)
	e := el.Value.(*entry)
	for _, s := range e.responses {
		known = known || s.part == nil
		if s.part == nil && s.matches(h) {
			return s, true
		}
	}
	return nil, known
}

// parts returns the parts of representations that answer these fields.
func (x *index) parts(uri string, h http.Header) []*response {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[uri]
	if !ok {
		return nil
	}
	var out []*response
	for _, s := range el.Value.(*entry).responses {
		if s.part != nil && s.matches(h) {
			out = append(out, s)
		}
	}
	return out
}

// has reports whether the URI was asked for before, whatever became of the answer.
func (x *index) has(uri string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.byURI[uri]
	return ok
}

func (x *index) passing(uri string, part bool, now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[uri]
	if !ok {
		return false
	}
	e := el.Value.(*entry)
	return now.Before(e.passUntil) && !(part && e.large)
}

// pass says that the URI's answers can't be shared; large: only because they are larger
// than what is kept.
func (x *index) pass(uri string, large bool, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entry(uri)
	e.passUntil, e.large = now.Add(passFor), large
	x.trim()
}

// entry returns the URI's entry, making it; x.mu is held.
func (x *index) entry(uri string) *entry {
	if el, ok := x.byURI[uri]; ok {
		x.recent.MoveToFront(el)
		return el.Value.(*entry)
	}
	e := &entry{uri: uri, bytes: 256 + int64(len(uri))}
	x.byURI[uri] = x.recent.PushFront(e)
	x.bytes += e.bytes
	return e
}

// put stores a response in the place of those it supersedes: old, and all that
// have the same selecting fields. A part supersedes only the parts in it.
func (x *index) put(uri string, s, old *response) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entry(uri)
	if s.part == nil {
		e.passUntil = time.Time{}
	}
	if old != nil && !slices.Contains(e.responses, old) {
		return // purged meanwhile, or superseded: an update of it is no news
	}
	supersedes := func(o *response) bool {
		switch {
		case o == old:
			return true
		case !slices.Equal(o.vary, s.vary) || !s.matches(o.request):
			return false
		case s.part == nil:
			return true
		case o.part == nil:
			return o.etag != s.etag
		}
		return o.etag != s.etag || s.part.covers(o.part.span)
	}
	e.responses = slices.DeleteFunc(e.responses, func(o *response) bool {
		if !supersedes(o) {
			return false
		}
		x.journal.gone(o)
		return true
	})
	e.responses = slices.Insert(e.responses, 0, s)
	x.journal.put(uri, s)
	if len(e.responses) > maxVariants {
		e.responses = e.responses[:maxVariants]
	}
	x.account(e)
	x.trim()
}

// account brings the sums and keys of a changed entry up to date; x.mu is held.
func (x *index) account(e *entry) {
	x.bytes -= e.bytes
	e.bytes = 256 + int64(len(e.uri))
	for _, s := range e.responses {
		e.bytes += s.cost()
		for _, k := range s.keys {
			if x.byKey[k] == nil {
				x.byKey[k] = map[*entry]struct{}{}
			}
			x.byKey[k][e] = struct{}{}
			e.bytes += 64
		}
	}
	x.bytes += e.bytes
}

func (x *index) trim() {
	for x.bytes > x.capacity && x.recent.Len() > 1 {
		x.drop(x.recent.Back().Value.(*entry))
	}
}

func (x *index) drop(e *entry) {
	el, ok := x.byURI[e.uri]
	if !ok || el.Value.(*entry) != e {
		return
	}
	x.recent.Remove(el)
	delete(x.byURI, e.uri)
	x.bytes -= e.bytes
	for _, s := range e.responses {
		for _, k := range s.keys {
			if delete(x.byKey[k], e); len(x.byKey[k]) == 0 {
				delete(x.byKey, k)
			}
		}
	}
}

// all calls f with every stored response, those asked for lately last.
func (x *index) all(f func(uri string, s *response)) {
	type stored struct {
		uri       string
		responses []*response
	}
	x.mu.Lock()
	list := make([]stored, 0, len(x.byURI))
	for el := x.recent.Back(); el != nil; el = el.Prev() {
		e := el.Value.(*entry)
		list = append(list, stored{e.uri, slices.Clone(e.responses)})
	}
	x.mu.Unlock()
	for _, e := range list {
		for _, s := range slices.Backward(e.responses) {
			f(e.uri, s)
		}
	}
}

// of returns the URI's responses.
func (x *index) of(uri string) []*response {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[uri]
	if !ok {
		return nil
	}
	return slices.Clone(el.Value.(*entry).responses)
}

// tidy drops entries without a response.
func (x *index) tidy() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for el := x.recent.Front(); el != nil; {
		e := el.Value.(*entry)
		el = el.Next()
		if len(e.responses) == 0 {
			x.drop(e)
		}
	}
}

// remove forgets one response.
func (x *index) remove(uri string, s *response) {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[uri]
	if !ok {
		return
	}
	e := el.Value.(*entry)
	e.responses = slices.DeleteFunc(e.responses, func(o *response) bool {
		if o == s {
			x.journal.gone(o)
		}
		return o == s
	})
	x.account(e)
}

// invalidate forgets all responses of a URI; how many there were.
func (x *index) invalidate(uri string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.journal.note(opURI, uri)
	el, ok := x.byURI[uri]
	if !ok {
		return 0
	}
	e := el.Value.(*entry)
	x.drop(e)
	return len(e.responses)
}

// purge forgets all URIs with a response of the key; how many there were.
func (x *index) purge(key string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.journal.note(opKey, key)
	n := 0
	for e := range x.byKey[key] {
		// The key may have been of a response that was superseded.
		if slices.ContainsFunc(e.responses, func(s *response) bool { return slices.Contains(s.keys, key) }) {
			x.drop(e)
			n++
		}
	}
	delete(x.byKey, key)
	return n
}
