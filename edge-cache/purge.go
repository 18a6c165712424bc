package edgecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/token"
)

// checkpointFile lies beside the disk cache and holds the last purge obeyed.
const checkpointFile = "purges.json"

// maxRevokedTokens bounds the revoked tokens kept; some 50 MiB. Owners who revoke
// more at a time revoke the key.
const maxRevokedTokens = 500_000

// purged is what purges said that outlasts the dropping of objects.
type purged struct {
	// voids are by asset the number up to which its playback records count no more.
	voids generations[int64]

	mu   sync.RWMutex
	jtis map[string]struct{}
}

// void reports whether a purge came after the record.
func (p *purged) void(r playback.Record) bool {
	n, ok := p.voids.get(r.Asset)
	return ok && r.N <= n
}

// revoked reports whether a token, or the token its session came from, was revoked.
func (p *purged) revoked(c token.Claims) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if len(p.jtis) == 0 {
		return false
	}
	_, own := p.jtis[journal.TokenName(c.Asset, c.ID)]
	_, parent := p.jtis[journal.TokenName(c.Asset, c.ParentID)]
	return own || c.ParentID != "" && parent
}

// revoke adds ids; false when there were too many.
func (p *purged) revoke(jtis []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jtis == nil {
		p.jtis = map[string]struct{}{}
	}
	for _, id := range jtis {
		if len(p.jtis) >= maxRevokedTokens {
			return false
		}
		p.jtis[id] = struct{}{}
	}
	return true
}

// purger makes cache and guard obey the purges journal.
type purger struct {
	cache   *cache.Cache
	guard   *guard
	hint    func(asset string) // look for a newer playback record
	file    string
	log     *slog.Logger
	metrics *metrics
	// held: a disk that has failed holds what was purged, so the checkpoint stays,
	// and a restart goes through the purges after it again.
	held bool
}

type checkpoint struct {
	N int64 `json:"n"`
}

// Checkpoint implements journal.Purger.
func (p *purger) Checkpoint() (int64, bool) {
	b, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false
	}
	var c checkpoint
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.N < 0 {
		p.log.Warn("purges: the checkpoint can't be read, so the cache is emptied", "file", p.file, "err", err)
		return 0, false
	}
	p.metrics.purged.Set(float64(c.N))
	return c.N, true
}

// Purge implements journal.Purger. What can't be removed from the disk is refused
// all the same.
func (p *purger) Purge(e journal.Purge) error {
	prefixes := make([]string, len(e.Assets))
	for i, v := range e.Assets {
		p.guard.purged.voids.put(v.Asset, v.N)
		p.hint(v.Asset)
		prefixes[i] = objects.StreamPrefix(v.Asset)
	}
	if len(prefixes) > 0 {
		p.drop("done", func(key string) bool {
			for _, prefix := range prefixes {
				if strings.HasPrefix(key, prefix) {
					return true
				}
			}
			return false
		})
	} else {
		p.metrics.purges.WithLabelValues("done").Inc()
	}
	p.note(e.N)
	return nil
}

// Revoke implements journal.Purger.
func (p *purger) Revoke(jtis []string) {
	if !p.guard.purged.revoke(jtis) {
		p.log.Error("purges: too many revoked tokens: some stay valid; revoke the key that signed them", "kept", maxRevokedTokens)
	}
}

// Empty implements journal.Purger.
func (p *purger) Empty(n int64) error {
	p.drop("emptied", func(string) bool { return true })
	p.note(n)
	return nil
}

func (p *purger) drop(outcome string, match func(key string) bool) {
	_, err := p.cache.Drop(match)
	// A disk that works again has been rid of what was dropped before.
	if p.held = err != nil; p.held {
		outcome = "disk_failed"
		if !errors.Is(err, cache.ErrClosed) {
			p.log.Error("purges: the disk cache can't be purged now; it is before it is used again", "err", err)
		}
	}
	p.metrics.purges.WithLabelValues(outcome).Inc()
}

// note writes the checkpoint. Without it a restart obeys the same purges again.
func (p *purger) note(n int64) {
	p.metrics.purged.Set(float64(n))
	if p.held {
		return
	}
	if err := p.write(checkpoint{N: n}); err != nil {
		p.log.Warn("purges: the checkpoint can't be written; a restart goes through them again", "err", err)
	}
}

func (p *purger) write(c checkpoint) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	tmp := p.file + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("purge checkpoint: %w", err)
	}
	return os.Rename(tmp, p.file)
}
