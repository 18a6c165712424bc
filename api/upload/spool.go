package upload

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
)

// spool holds one part on its way to storage, in a file without a name: whatever
// happens to the process, it leaves nothing behind.
type spool struct {
	file *os.File
	sum  hash.Hash
	size int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "meridian-part-*")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), f.Close())
	}
	return &spool{file: f, sum: sha256.New()}, nil
}

// fill reads from src until the part has limit bytes, src ends, stop says so or
// the part is old enough. end reports that src has no more.
func (s *spool) fill(src io.Reader, limit int64, buf []byte, stop func() bool) (end bool, err error) {
	started := time.Now()
	for s.size < limit && !stop() {
		b := buf[:min(int64(len(buf)), limit-s.size)]
		n, err := src.Read(b)
		if n > 0 {
			if _, werr := s.file.Write(b[:n]); werr != nil {
				return false, fmt.Errorf("spool: %w", werr)
			}
			s.sum.Write(b[:n])
			s.size += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return true, err
		}
		if s.size > 0 && time.Since(started) > flushAfter {
			return false, nil
		}
	}
	return false, nil
}

func (s *spool) body() objects.Body {
	return objects.Body{R: s.file, Size: s.size, SHA256: [sha256.Size]byte(s.sum.Sum(nil))}
}

func (s *spool) close() error { return s.file.Close() }
