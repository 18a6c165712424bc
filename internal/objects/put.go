package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
)

// Body is an object's content: readable more than once, with its hash.
type Body struct {
	R      io.ReaderAt
	Size   int64
	SHA256 [sha256.Size]byte
}

// Bytes is a Body of b.
func Bytes(b []byte) Body {
	return Body{R: bytes.NewReader(b), Size: int64(len(b)), SHA256: sha256.Sum256(b)}
}

// hashKey is the user metadata that holds an object's SHA-256. Metadata, not
// S3's checksum headers: every S3 server keeps it.
const hashKey = "Sha256"

// Put writes the object in this region alone. Finding the same bytes there is
// success; other bytes give ErrConflict.
func (b *Bucket) Put(ctx context.Context, key string, body Body) error {
	return b.guard(func() error { return b.put(ctx, key, body, io.NewSectionReader(body.R, 0, body.Size)) })
}

func (b *Bucket) put(ctx context.Context, key string, body Body, r io.Reader) error {
	sum := hex.EncodeToString(body.SHA256[:])
	opt := minio.PutObjectOptions{UserMetadata: map[string]string{hashKey: sum}, ContentType: "application/octet-stream", DisableMultipart: true, SendContentMd5: false}
	opt.SetMatchETagExcept("*")
	_, err := b.core.PutObject(ctx, b.name, key, r, body.Size, "", sum, opt)
	if err == nil {
		return nil
	}
	// 412: somebody wrote the key before. 409: somebody is writing it right now.
	if code := minio.ToErrorResponse(err).StatusCode; code != http.StatusPreconditionFailed && code != http.StatusConflict {
		return fmt.Errorf("put %s: %w", key, cause(ctx, err))
	}
	info, serr := b.core.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
	if serr != nil {
		return fmt.Errorf("put %s: %w", key, errors.Join(err, serr))
	}
	if info.UserMetadata[hashKey] != sum {
		return fmt.Errorf("put %s: %w: have sha256 %s, want %s", key, ErrConflict, info.UserMetadata[hashKey], sum)
	}
	return nil
}

// Put writes the object in as many regions as the placement asks for, the own
// and the nearest other first, and returns the names of those that acknowledged.
// A region that fails or makes no progress for two seconds is replaced by the
// next, and its request is dropped once enough others have acknowledged.
func (s *Store) Put(ctx context.Context, key string, body Body, p Placement) ([]string, error) {
	candidates := s.allowed(p)
	need := min(s.table.Copies(), len(candidates))
	if need == 0 {
		return nil, fmt.Errorf("put %s: placement %+v allows no region of the table", key, p)
	}
	type result struct {
		region string
		err    error
	}
	results := make(chan result, len(candidates))
	started := 0
	var inFlight []*progressReader
	defer func() {
		for _, pr := range inFlight {
			if pr.replaced {
				pr.cancel(errSilent)
			}
			pr.cancel(context.Canceled)
		}
	}()
	start := func() {
		b := candidates[started]
		started++
		pctx, cancel := context.WithCancelCause(ctx)
		pr := &progressReader{r: io.NewSectionReader(body.R, 0, body.Size), cancel: cancel}
		pr.touch()
		inFlight = append(inFlight, pr)
		go func() {
			err := b.guard(func() error { return b.put(pctx, key, body, pr) })
			pr.done.Store(true)
			results <- result{b.Region, err}
		}()
	}
	for range need {
		start()
	}
	tick := time.NewTicker(silence / 8)
	defer tick.Stop()
	var acked []string
	var errs []error
	for finished := 0; len(acked) < need; {
		select {
		case r := <-results:
			finished++
			switch {
			case r.err == nil:
				acked = append(acked, r.region)
			case errors.Is(r.err, ErrConflict):
				return nil, r.err
			default:
				errs = append(errs, r.err)
				if started < len(candidates) {
					start()
				}
			}
			if finished == started && len(acked) < need {
				return nil, fmt.Errorf("put %s: %w: %w", key, ErrTooFewRegions, errors.Join(errs...))
			}
		case <-tick.C:
			for _, pr := range inFlight {
				if started < len(candidates) && !pr.replaced && !pr.done.Load() && pr.silentFor() > silence {
					pr.replaced = true
					start()
				}
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("put %s: %w", key, errors.Join(ctx.Err(), errors.Join(errs...)))
		}
	}
	return acked, nil
}

// PutEverywhere is Put for small objects that every region is to hold at once, as
// edges need them to decide. It returns as Put does; the other regions are written
// to afterwards, for up to two seconds and without a promise: repair copies what
// they lack.
func (s *Store) PutEverywhere(ctx context.Context, key string, body Body) ([]string, error) {
	acked, err := s.Put(ctx, key, body, Placement{})
	if err != nil {
		return nil, err
	}
	for _, b := range s.buckets {
		if slices.Contains(acked, b.Region) {
			continue
		}
		select {
		case s.spreading <- struct{}{}:
		default:
			return acked, nil
		}
		go func() {
			defer func() { <-s.spreading }()
			sctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), silence, errSilent)
			defer cancel()
			if err := b.Put(sctx, key, body); err != nil {
				s.log.Debug("an object that goes everywhere is left to repair", "key", key, "err", err)
			}
		}()
	}
	return acked, nil
}

// progressReader notes when it was last read from.
type progressReader struct {
	r        *io.SectionReader
	last     atomic.Int64
	done     atomic.Bool
	cancel   context.CancelCauseFunc
	replaced bool
}

func (p *progressReader) touch() { p.last.Store(time.Now().UnixNano()) }
func (p *progressReader) silentFor() time.Duration {
	return time.Duration(time.Now().UnixNano() - p.last.Load())
}

func (p *progressReader) Read(b []byte) (int, error) {
	p.touch()
	return p.r.Read(b)
}

// Seek lets the S3 client send the body again.
func (p *progressReader) Seek(offset int64, whence int) (int64, error) {
	return p.r.Seek(offset, whence)
}
