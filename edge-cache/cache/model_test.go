package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what a cache may answer: of each key the version the origin has, which
// changes only when the key is dropped, as a purge does. Nothing else is promised,
// and nothing else may come: no byte of another version, key or offset, whatever
// is evicted, damaged, cut off or restarted.
type model struct {
	t       *rapid.T
	cfg     Config
	cache   *Cache
	version map[string]int
	asked   atomic.Int64
	bring   func() // the disk back; nil while it is there
	lost    bool   // the disk was, since the cache was opened
}

const modelKeys = 12

func (m *model) body(key string) []byte {
	n := int(key[1]) // sizes differ by key
	return object(fmt.Sprintf("%s/%d", key, m.version[key]), n*n*4+1)
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

func (m *model) close() {
	if err := m.cache.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) get(key string, fault int) {
	before := m.asked.Load()
	o, out, err := m.cache.Get(context.Background(), key, m.source(key, fault))
	var got []byte
	if err == nil {
		got, err = readAll(context.Background(), o)
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
		m := &model{t: t, cfg: Config{Memory: 1 << 20, MaxObject: 64 << 10, Dir: dir, Disk: 2 << 20, MissingFor: time.Nanosecond, DiskRetry: time.Millisecond}, version: map[string]int{}}
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
		drop := func(match func(string) bool) {
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
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"get":       func(t *rapid.T) { m.get(key.Draw(t, "key"), healthy) },
			"get again": func(t *rapid.T) { k := key.Draw(t, "key"); m.get(k, healthy); m.get(k, down) },
			"get, faulty": func(t *rapid.T) {
				m.get(key.Draw(t, "key"), rapid.IntRange(1, faults-1).Draw(t, "fault"))
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
			"drop one": func(t *rapid.T) { k := key.Draw(t, "key"); drop(func(s string) bool { return s == k }) },
			"drop a group": func(t *rapid.T) {
				g := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "group")
				drop(func(s string) bool { return strings.HasPrefix(s, g) })
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
				b := make([]byte, 1)
				if _, err := f.ReadAt(b, at); err == nil {
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
