package client

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
)

// remembered is how long an upload that was cut off can be gone on with; the
// API forgets it sooner.
const remembered = 7 * 24 * time.Hour

// memory is what is remembered of one upload between runs, in a file named after
// everything that makes it the same upload.
type memory struct {
	path string
	File string `json:"file"`
	// Key made the upload; URL and Asset are empty until it is made.
	Key   string `json:"key"`
	URL   string `json:"url"`
	Asset string `json:"asset"`
}

// StateDir is where uploads are remembered: $XDG_STATE_HOME/meridian/uploads,
// else under ~/.local/state.
func StateDir() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "meridian", "uploads"), nil
}

func openMemory(dir string, bases []string, path string, info fs.FileInfo) (*memory, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		if dir, err = StateDir(); err != nil {
			return nil, fmt.Errorf("upload state: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("upload state: %w", err)
	}
	forgetOld(dir)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%s", abs, info.Size(), info.ModTime().UnixNano(), strings.Join(bases, ",")))
	m := &memory{path: filepath.Join(dir, hex.EncodeToString(sum[:16])+".json")}
	b, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("upload state: %w", err)
	default:
		if json.Unmarshal(b, m) != nil {
			*m = memory{path: m.path} // a torn file: begin anew
		}
	}
	m.File = abs
	return m, nil
}

// forgetOld removes what nobody came back for; failing to costs only disk space.
func forgetOld(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && time.Since(i.ModTime()) > remembered {
			_ = os.Remove(filepath.Join(dir, e.Name())) // see above
		}
	}
}

func (m *memory) save() error {
	b, err := json.Marshal(m)
	if err == nil {
		err = durable.Write(m.path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("upload state: %w", err)
	}
	return nil
}

func (m *memory) forget() error {
	if err := os.Remove(m.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("upload state: %w", err)
	}
	return nil
}
