package validate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
)

// maxBody bounds one playlist or segment.
const maxBody = 64 << 20

var errSize = fmt.Errorf("larger than %d MiB", maxBody>>20)

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err == nil && len(b) > maxBody {
		err = errSize
	}
	return b, err
}

// HTTP opens http and https URLs. The zero value is ready.
type HTTP struct {
	// Client defaults to one with a deadline of 30 s.
	Client *http.Client
}

// Open reads the body of a 200.
func (h HTTP) Open(ctx context.Context, u *url.URL) ([]byte, string, error) {
	client := h.Client
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("status %s", resp.Status)
	}
	b, err := readAll(resp.Body)
	return b, resp.Header.Get("Content-Type"), err
}

// Dir opens files below a directory by the paths of their URLs.
type Dir struct{ root *os.Root }

// OpenDir opens a directory and finds its playlist: master.m3u8, index.m3u8, or
// the only *.m3u8. Close releases it.
func OpenDir(path string) (Dir, *url.URL, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return Dir{}, nil, err
	}
	d := Dir{root}
	for _, name := range []string{"master.m3u8", hls.MediaName} {
		if _, err := root.Stat(name); err == nil {
			return d, &url.URL{Path: "/" + name}, nil
		}
	}
	found, err := filepath.Glob(filepath.Join(path, "*.m3u8"))
	if err == nil && len(found) == 1 {
		return d, &url.URL{Path: "/" + filepath.Base(found[0])}, nil
	}
	return Dir{}, nil, errors.Join(fmt.Errorf("%s: want master.m3u8, index.m3u8 or one *.m3u8, found %d", path, len(found)), err, root.Close())
}

// Close releases the directory.
func (d Dir) Close() error { return d.root.Close() }

// Open reads a file; nothing outside the directory.
func (d Dir) Open(_ context.Context, u *url.URL) ([]byte, string, error) {
	if u.Host != "" {
		return nil, "", fmt.Errorf("%s is not in the directory", u)
	}
	f, err := d.root.Open(strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	b, err := readAll(f)
	return b, "", err
}
