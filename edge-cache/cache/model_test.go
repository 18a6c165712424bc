package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// model is what a cache may answer: of each key the version the origin has, which
// changes only when the key is dropped, as a purge does. Nothing else is promised,
// and nothing else may come: no byte of another version, key or offset, whatever
// is evicted, damaged, cut off or restarted. What was read from disk before and found
// right isn't damaged: it is sent unseen.
type model struct {
	t       *rapid.T
	cfg     Config
	cache   *Cache
	version map[string]int
	asked   atomic.Int64
	bring   func() // the disk back; nil while it is there
	lost    bool   // the disk was, since the cache was opened
	held    []held
}

// held is an object that somebody reads, and its bytes.
type held struct {
	o    *Object
	body []byte
}

const maxHeld = 4

// read reads a held object, as a loop sends it: from its file, if it is on disk.
func (m *model) read(h held) {
	got := h.o.Whole()
	if h.o.OnDisk() {
		fd, at := h.o.File()
		got = make([]byte, h.o.Info().Size)
		if n, err := unix.Pread(fd, got, at); err != nil || n < len(got) {
			m.t.Fatalf("%d of %d bytes: %v", n, len(got), err)
		}
	}
	if !bytes.Equal(got, h.body) {
		m.t.Fatalf("%d bytes (on disk: %v), not those that were hit", len(got), h.o.OnDisk())
	}
}

// evict has memory hold and remember nothing, as after many others were asked for.
func (m *model) evict() {
	c := m.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := c.policy.oldest(); n != nil; n = c.policy.oldest() {
		c.policy.drop(n, fromSmall)
	}
	for n := c.policy.least(); n != nil; n = c.policy.least() {
		c.policy.drop(n, fromMain)
	}
	c.policy.ghosts = ghosts{}
}

// hit asks as a loop does, which may take its time to send what it gets.
func (m *model) hit(t *rapid.T, key string) {
	o := m.cache.Hit([]byte(key), true)
	if o == nil {
		return
	}
	h := held{o, m.body(key)}
	m.read(h)
	if rapid.Bool().Draw(t, "sent at once") {
		o.Release()
		return
	}
	if m.held = append(m.held, h); len(m.held) > maxHeld {
		m.release(0)
	}
}

func (m *model) release(i int) {
	m.held[i].o.Release()
	m.held = slices.Delete(m.held, i, i+1)
}

// safe reports whether a byte of a segment may be damaged.
func (m *model) safe(id uint64, at int64) bool {
	in := func(p *place) bool { return p.seg.id == id && at >= p.at && at < p.end() }
	for _, h := range m.held {
		if h.o.OnDisk() && in(h.o.disk.p) {
			return false
		}
	}
	d := m.cache.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.index {
		if p.verified.Load() && in(p) {
			return false
		}
	}
	return true
}

const modelKeys = 12

func (m *model) body(key string) []byte {
	n := int(key[1]) // sizes differ by key: several to a segment, or several blocks
	return object(fmt.Sprintf("%s/%d", key, m.version[key]), n*n*4*int(key[0]-'a'+1)+1)
}

// faults of an origin.
const (
	healthy = iota
	breaks  // in the middle
	lies    // a byte is wrong
	down
	faults
)

func (m *model) source(key string, fault int) Source {
	b := m.body(key)
	return func(_ context.Context, offset int64) (io.ReadCloser, Info, error) {
		m.asked.Add(1)
		info := infoOf(b)
		switch fault {
		case down:
			return nil, Info{}, errors.New("down")
		case breaks:
			return io.NopCloser(io.MultiReader(bytes.NewReader(b[offset:max(offset, int64(len(b)/2))]), breaking{})), info, nil
		case lies:
			bad := bytes.Clone(b)
			bad[len(bad)/2] ^= 1
			return io.NopCloser(bytes.NewReader(bad[offset:])), info, nil
		}
		return io.NopCloser(bytes.NewReader(b[offset:])), info, nil
	}
}

type breaking struct{}

func (breaking) Read([]byte) (int, error) { return 0, errors.New("broken") }

func (m *model) open() {
	c, err := Open(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.cache, m.lost = c, false
}

// mended waits until the disk is used again.
func (m *model) mended(t *rapid.T) {
	for until := time.Now().Add(10 * time.Second); m.cache.DiskErr() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(m.cache.DiskErr())
		}
	}
}

// close ends the cache before its readers.
func (m *model) close() {
	if err := m.cache.Close(); err != nil {
		m.t.Fatal(err)
	}
	for len(m.held) > 0 {
		m.read(m.held[0])
		m.release(0)
	}
}

func (m *model) get(key string, fault int) {
	before := m.asked.Load()
	o, out, err := m.cache.Get(context.Background(), key, m.source(key, fault))
	var got []byte
	if err == nil {
		got, err = readAll(context.Background(), o)
		o.Release()
	}
	switch {
	case err != nil && fault == healthy:
		m.t.Fatalf("%s: %v", key, err)
	case err != nil && out.Tier == Memory:
		m.t.Fatalf("%s: from memory, and %v", key, err)
	case err == nil && !bytes.Equal(got, m.body(key)):
		m.t.Fatalf("%s (%v): %d bytes, not those of version %d", key, out, len(got), m.version[key])
	case err == nil && fault != healthy && out.Tier == Origin && m.asked.Load() > before:
		m.t.Fatalf("%s: whole from an origin with fault %d", key, fault)
	}
}

// TestModel plays random histories of reading, faults, prefetching, purging,
// restarts, loss of the disk and damage to it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "cache-model-")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		dir = filepath.Join(dir, "disk")
		m := &model{t: t, cfg: Config{Memory: 1 << 20, MaxObject: 128 << 10, Dir: dir, Disk: 2 << 20, MissingFor: time.Nanosecond, DiskRetry: time.Millisecond}, version: map[string]int{}}
		m.open()
		back := func(t *rapid.T) {
			if m.bring == nil {
				return
			}
			m.bring()
			m.bring = nil
			m.mended(t)
		}
		defer func() { back(t); m.close() }()
		key := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%c%c", "ab"[rapid.IntRange(0, 1).Draw(t, "group")], 'a'+rapid.IntRange(0, modelKeys-1).Draw(t, "key"))
		})
		drop := func(t *rapid.T, match func(string) bool) {
			if _, err := m.cache.Drop(match); err != nil && m.bring == nil {
				// The writer may have met the loss just before its end, and noticed after it.
				if !m.lost {
					t.Fatal(err)
				}
				m.mended(t)
			}
			for i := range 2 * modelKeys {
				if k := fmt.Sprintf("%c%c", "ab"[i%2], 'a'+i/2); match(k) {
					m.version[k]++
					m.hit(t, k)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"get":       func(t *rapid.T) { m.get(key.Draw(t, "key"), healthy) },
			"get again": func(t *rapid.T) { k := key.Draw(t, "key"); m.get(k, healthy); m.get(k, down) },
			"get, faulty": func(t *rapid.T) {
				m.get(key.Draw(t, "key"), rapid.IntRange(1, faults-1).Draw(t, "fault"))
			},
			"evict": func(*rapid.T) { m.evict() },
			"get, to be sent from disk": func(t *rapid.T) {
				k := key.Draw(t, "key")
				m.get(k, healthy)
				m.get(k, healthy)
				for range 2 { // the first time it is verified
					for m.cache.disk.waiting.Load() > 0 {
						runtime.Gosched()
					}
					m.evict()
					m.get(k, healthy)
				}
				m.hit(t, k)
			},
			"hit": func(t *rapid.T) { m.hit(t, key.Draw(t, "key")) },
			"read on": func(t *rapid.T) {
				if len(m.held) > 0 {
					i := rapid.IntRange(0, len(m.held)-1).Draw(t, "held")
					m.read(m.held[i])
					m.release(i)
				}
			},
			"prefetch": func(t *rapid.T) {
				k := key.Draw(t, "key")
				if m.cache.Prefetch(k, m.source(k, healthy)) {
					m.get(k, healthy)
				}
			},
			"put": func(t *rapid.T) {
				k := key.Draw(t, "key")
				b := m.body(k)
				m.cache.Put(k, infoOf(b), b, rapid.Bool().Draw(t, "again"))
				m.get(k, healthy)
			},
			"drop one": func(t *rapid.T) { k := key.Draw(t, "key"); drop(t, func(s string) bool { return s == k }) },
			"drop a group": func(t *rapid.T) {
				g := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "group")
				drop(t, func(s string) bool { return strings.HasPrefix(s, g) })
			},
			"disk lost": func(t *rapid.T) {
				if m.bring == nil {
					m.bring, m.lost = lose(t, dir), true
				}
			},
			"disk back": back,
			"restart":   func(t *rapid.T) { back(t); m.close(); m.open() },
			"restart without a checkpoint": func(t *rapid.T) {
				back(t)
				m.close()
				// What SIGKILL leaves of the segment that was being written.
				files, _ := filepath.Glob(filepath.Join(dir, "*.idx"))
				if len(files) > 0 && len(m.version) == 0 { // purges are in checkpoints
					_ = os.Remove(files[len(files)-1])
				}
				m.open()
			},
			"damage": func(t *rapid.T) {
				files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
				if len(files) == 0 {
					return
				}
				f, err := os.OpenFile(rapid.SampledFrom(files).Draw(t, "file"), os.O_RDWR, 0)
				if err != nil {
					return // dropped meanwhile
				}
				defer func() { _ = f.Close() }()
				st, err := f.Stat()
				if err != nil || st.Size() == 0 {
					return
				}
				at := rapid.Int64Range(0, st.Size()-1).Draw(t, "at")
				var id uint64
				if _, err := fmt.Sscanf(filepath.Base(f.Name()), "%x.log", &id); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 1)
				if _, err := f.ReadAt(b, at); err == nil && m.safe(id, at) {
					b[0] ^= 0x55
					_, _ = f.WriteAt(b, at)
				}
			},
			"": func(t *rapid.T) {
				if s := m.cache.Stats(); s.Bytes > s.Capacity || s.DiskBytes > m.cfg.Disk {
					t.Fatalf("%+v: beyond its bounds", s)
				}
			},
		})
	})
}
