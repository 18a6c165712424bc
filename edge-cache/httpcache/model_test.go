package httpcache

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

// resource is what the origin has under one path: versions that follow each other.
type resource struct {
	path    string
	maxAge  int
	varies  bool
	version int
	// replaced is when a version was followed by the next.
	replaced map[int]time.Time
	// purged is the version there was at the last purge.
	purged int
}

const modelBody = 3000

// beyond is past the end of all of them.
const beyond = 2 * modelBody

// text is a version's body, which names path, language and version throughout.
func (r *resource) text(lang string, version int) string {
	if !r.varies {
		lang = "any"
	}
	one := fmt.Sprintf("[%s %s %d]", r.path, lang, version)
	return strings.Repeat(one, modelBody/len(one)+1)
}

// TestModel plays random histories of requests, changes at the origin, time,
// purges, outages, restarts and lack of room in memory and index. What is served is the newest version, or one that was the
// newest less than its lifetime ago (RFC 9111 section 4.2), after any purge; of
// the language asked for; and whole, or the range asked for of one version.
func TestModel(t *testing.T) {
	x := newDiskRig(t)
	history := 0
	big := make([]byte, 1<<20)
	rapid.Check(t, func(t *rapid.T) {
		history++ // paths of its own: the cache is kept
		var mu sync.Mutex
		down := false
		resources := map[string]*resource{}
		var paths []string
		for i, maxAge := range []int{0, 5, 60} {
			for _, varies := range []bool{false, true} {
				p := fmt.Sprintf("/%d/%d-%v", history, i, varies)
				resources[p] = &resource{path: p, maxAge: maxAge, varies: varies, replaced: map[int]time.Time{}}
				paths = append(paths, p)
			}
		}
		x.set(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				panic(http.ErrAbortHandler)
			}
			res := resources[r.URL.Path]
			w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", res.maxAge))
			lang := r.Header.Get("Accept-Language")
			tag := strconv.Quote(strconv.Itoa(res.version))
			if res.varies {
				w.Header().Set("Vary", "Accept-Language")
				tag = strconv.Quote(fmt.Sprintf("%s-%d", lang, res.version))
			}
			w.Header().Set("Etag", tag)
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && from >= beyond {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) // with all fields, unlike ServeContent's
				return
			}
			http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader(res.text(lang, res.version)))
		})
		pick := func(t *rapid.T) (*resource, string) {
			return resources[rapid.SampledFrom(paths).Draw(t, "path")], rapid.SampledFrom([]string{"en", "de"}).Draw(t, "language")
		}
		// check finds the version of which got is the part from a; all of it where it
		// must be whole.
		check := func(t *rapid.T, r *resource, lang, got string, a int, whole bool) {
			now := x.clock.Now()
			for v := r.version; v >= 0; v-- {
				if want := r.text(lang, v); a+len(got) > len(want) || want[a:a+len(got)] != got || whole && want != got {
					continue
				}
				gone, old := r.replaced[v]
				if old && (now.Sub(gone) >= time.Duration(r.maxAge)*time.Second || v < r.purged) {
					t.Fatalf("%s: version %d, replaced %s ago; purged at version %d; the newest is %d", r.path, v, now.Sub(gone), r.purged, r.version)
				}
				return
			}
			t.Fatalf("%s %s: no version has %.80q at %d", r.path, lang, got, a)
		}
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				r, lang := pick(t)
				res, b := x.send(http.MethodGet, r.path, fields{"Accept-Language: " + lang})
				if res.StatusCode >= 500 && down {
					return
				}
				if res.StatusCode != 200 {
					t.Fatalf("%s: status %d, %d bytes", r.path, res.StatusCode, len(b))
				}
				check(t, r, lang, b, 0, true)
				x.settle()
			},
			"range": func(t *rapid.T) {
				r, lang := pick(t)
				a := rapid.IntRange(0, modelBody-1).Draw(t, "from")
				z := rapid.IntRange(a, modelBody-1).Draw(t, "to")
				res, b := x.send(http.MethodGet, r.path, fields{"Accept-Language: " + lang, fmt.Sprintf("Range: bytes=%d-%d", a, z)})
				x.settle()
				if res.StatusCode >= 500 && down {
					return
				}
				if res.StatusCode != 206 || len(b) != z-a+1 {
					t.Fatalf("%s: status %d, %d bytes of %d", r.path, res.StatusCode, len(b), z-a+1)
				}
				check(t, r, lang, b, a, false)
			},
			"range beyond the end": func(t *rapid.T) {
				r, lang := pick(t)
				spec := rapid.SampledFrom([]string{"Range: bytes=%d-", "Range: bytes=%d-90000"}).Draw(t, "range")
				res, _ := x.send(http.MethodGet, r.path, fields{"Accept-Language: " + lang, fmt.Sprintf(spec, beyond)})
				x.settle()
				if res.StatusCode != 416 && !(down && res.StatusCode >= 500) {
					t.Fatalf("%s: status %d", r.path, res.StatusCode)
				}
			},
			"head": func(t *rapid.T) {
				r, lang := pick(t)
				if res, b := x.send(http.MethodHead, r.path, fields{"Accept-Language: " + lang}); b != "" || res.StatusCode != 200 && !down {
					t.Fatalf("%s: status %d, %q", r.path, res.StatusCode, b)
				}
				x.settle()
			},
			"validate": func(t *rapid.T) {
				r, lang := pick(t)
				res, _ := x.send(http.MethodGet, r.path, fields{"Accept-Language: " + lang, "Cache-Control: no-cache"})
				x.settle()
				if want := http.StatusOK; res.StatusCode != want && !down {
					t.Fatalf("%s: status %d", r.path, res.StatusCode)
				}
			},
			"change": func(t *rapid.T) {
				r, _ := pick(t)
				mu.Lock()
				defer mu.Unlock()
				r.replaced[r.version] = x.clock.Now()
				r.version++
			},
			"purge": func(t *rapid.T) {
				r, _ := pick(t)
				if res, _ := x.send("PURGE", r.path, nil); res.StatusCode >= 400 && res.StatusCode != 404 {
					t.Fatalf("purge: status %d", res.StatusCode)
				}
				r.purged = r.version
			},
			"time": func(t *rapid.T) {
				x.clock.advance(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
			},
			"restart": func(*rapid.T) { x.restart() },
			"evict from memory": func(t *rapid.T) { // to the disk, where that has it
				for i := range 16 {
					x.cfg.Cache.Put(fmt.Sprint("big", i), cache.Info{}, big, false)
				}
			},
			"evict from the index": func(t *rapid.T) {
				r, _ := pick(t)
				x.proxy.index.mu.Lock()
				defer x.proxy.index.mu.Unlock()
				for _, el := range x.proxy.index.byURI {
					if e := el.Value.(*entry); strings.HasSuffix(e.uri, " "+r.path) {
						x.proxy.index.drop(e)
					}
				}
			},
			"outage": func(*rapid.T) {
				mu.Lock()
				defer mu.Unlock()
				down = !down
			},
		})
	})
}
