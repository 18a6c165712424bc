package order

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/meridian-video/meridian/internal/certificate"
)

// storage is certmagic's storage in the shared state.
//
// certmagic saves a certificate as three files, one after the other, and takes
// them back one by one when that fails. Here the three become one change, so that
// nobody sees a certificate without its key, nor is one lost halfway.
type storage struct {
	shared *certificate.Shared

	mu      sync.Mutex
	pending map[string][]byte // files of certificates that aren't complete
}

func newStorage(shared *certificate.Shared) *storage {
	return &storage{shared: shared, pending: map[string][]byte{}}
}

var _ certmagic.Storage = (*storage)(nil)

// parts are the files of a certificate.
var parts = []string{".crt", ".key", ".json"}

// siteOf returns the path of a certificate's files without what tells them apart;
// ok is false for other files.
func siteOf(key string) (site string, ok bool) {
	ext := path.Ext(key)
	return strings.TrimSuffix(key, ext), strings.HasPrefix(key, "certificates/") && slices.Contains(parts, ext)
}

// Store implements certmagic.Storage.
func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	files := map[string][]byte{key: value}
	site, ok := siteOf(key)
	if ok {
		s.mu.Lock()
		s.pending[key] = value
		for _, ext := range parts {
			files[site+ext] = s.pending[site+ext]
		}
		s.mu.Unlock()
		for _, b := range files {
			if b == nil {
				return nil // not complete
			}
		}
	}
	err := s.shared.Change(ctx, func(st *certificate.State) error {
		for k, b := range files {
			st.Files[k] = certificate.File{Content: b, Modified: time.Now().UTC()}
		}
		return nil
	})
	if err == nil {
		s.mu.Lock()
		for k := range files {
			delete(s.pending, k)
		}
		s.mu.Unlock()
	}
	return err
}

// Load implements certmagic.Storage.
func (s *storage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	b, ok := s.pending[key]
	s.mu.Unlock()
	if ok {
		return b, nil
	}
	f, ok := s.shared.State().Files[key]
	if !ok {
		return nil, notExist(key)
	}
	return slices.Clone(f.Content), nil
}

// Delete implements certmagic.Storage. What is pending was never stored, and what
// was stored before stays.
func (s *storage) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	_, ok := s.pending[key]
	delete(s.pending, key)
	s.mu.Unlock()
	if ok {
		return nil
	}
	return s.shared.Change(ctx, func(st *certificate.State) error {
		for _, k := range st.Below(key) {
			delete(st.Files, k)
		}
		return nil
	})
}

// Exists implements certmagic.Storage.
func (s *storage) Exists(_ context.Context, key string) bool {
	return len(s.shared.State().Below(key)) > 0
}

// List implements certmagic.Storage.
func (s *storage) List(_ context.Context, dir string, recursive bool) ([]string, error) {
	below := s.shared.State().Below(dir)
	if len(below) == 0 {
		return nil, notExist(dir)
	}
	if recursive {
		return below, nil
	}
	var out []string
	for _, k := range below {
		first, _, _ := strings.Cut(strings.TrimPrefix(k, path.Clean(dir)+"/"), "/")
		out = append(out, path.Join(dir, first))
	}
	return slices.Compact(out), nil
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	st := s.shared.State()
	if f, ok := st.Files[key]; ok {
		return certmagic.KeyInfo{Key: key, Modified: f.Modified, Size: int64(len(f.Content)), IsTerminal: true}, nil
	}
	if len(st.Below(key)) > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, notExist(key)
}

func notExist(key string) error { return fmt.Errorf("%s: %w", key, fs.ErrNotExist) }

// Lock implements certmagic.Locker. Orders holds its own lock around everything
// certmagic does; see lock.
func (s *storage) Lock(context.Context, string) error { return nil }

// Unlock implements certmagic.Locker.
func (s *storage) Unlock(context.Context, string) error { return nil }
