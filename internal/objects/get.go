package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// Info describes an object.
type Info struct {
	Key  string
	Size int64
	// ETag is quoted, as HTTP wants it. It is derived from the object's SHA-256
	// where that is known, so that it is the same in every region.
	ETag string
	// SHA256 in hex; empty for objects not written by this package.
	SHA256   string
	Modified time.Time
	// Region the object was read from.
	Region string
}

func (b *Bucket) info(key string, o minio.ObjectInfo, size int64) Info {
	sum := o.UserMetadata[hashKey]
	etag := `"` + o.ETag + `"`
	if len(sum) == 64 {
		etag = `"` + sum[:32] + `"`
	}
	return Info{Key: key, Size: size, ETag: etag, SHA256: sum, Modified: o.LastModified, Region: b.Region}
}

// Stat describes the object in this region. A missing object gives ErrNotFound.
func (b *Bucket) Stat(ctx context.Context, key string) (Info, error) {
	var out Info
	err := b.guard(func() error {
		o, err := b.core.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
		if err != nil {
			return notFound("stat", key, cause(ctx, err))
		}
		out = b.info(key, o, o.Size)
		return nil
	})
	return out, err
}

func notFound(what, key string, err error) error {
	if minio.ToErrorResponse(err).StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s %s: %w", what, key, ErrNotFound)
	}
	return fmt.Errorf("%s %s: %w", what, key, err)
}

// Get opens length bytes of the object from offset in this region; length < 0
// means to the end. Info.Size is the whole object's size. The caller closes the
// body; it must read it under a deadline of its own.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Info, error) {
	var body io.ReadCloser
	var out Info
	err := b.guard(func() error {
		var opt minio.GetObjectOptions
		if offset > 0 || length >= 0 {
			end := int64(0)
			if length >= 0 {
				end = offset + length - 1
			}
			if length == 0 {
				return fmt.Errorf("get %s: a range of no bytes", key)
			}
			if err := setRange(&opt, offset, end, length >= 0); err != nil {
				return err
			}
		}
		r, o, h, err := b.core.GetObject(ctx, b.name, key, opt)
		if err != nil {
			return notFound("get", key, cause(ctx, err))
		}
		size := o.Size
		cr := h.Get("Content-Range")
		if offset > 0 && !strings.HasPrefix(cr, fmt.Sprintf("bytes %d-", offset)) {
			return errors.Join(fmt.Errorf("get %s: asked for bytes from %d, got %q", key, offset, cr), r.Close())
		}
		if cr != "" {
			if _, err := fmt.Sscanf(cr[lastSlash(cr)+1:], "%d", &size); err != nil {
				return errors.Join(fmt.Errorf("get %s: content range %q: %w", key, cr, err), r.Close())
			}
		}
		body, out = r, b.info(key, o, size)
		return nil
	})
	return body, out, err
}

func setRange(opt *minio.GetObjectOptions, start, end int64, bounded bool) error {
	if bounded {
		// SetRange(0, 0) means the first byte only when given as an explicit header.
		opt.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end))
		return nil
	}
	return opt.SetRange(start, 0)
}

func lastSlash(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}

// Get opens a range of the object in the nearest region that has it and goes on
// in the next one when that region fails or falls silent, also in mid-body.
// Placement limits where it looks.
func (s *Store) Get(ctx context.Context, key string, offset, length int64, p Placement) (io.ReadCloser, Info, error) {
	r := &failoverReader{ctx: ctx, key: key, offset: offset, length: length, candidates: s.allowed(p)}
	info, err := r.open()
	if err != nil {
		return nil, Info{}, err
	}
	if length < 0 {
		r.length = info.Size - offset
	}
	return r, info, nil
}

// Stat describes the object in the nearest region that has it.
func (s *Store) Stat(ctx context.Context, key string, p Placement) (Info, error) {
	var errs []error
	missing := false
	for _, b := range s.allowed(p) {
		sctx, cancel := context.WithTimeoutCause(ctx, silence, errSilent)
		info, err := b.Stat(sctx, key)
		cancel()
		if err == nil {
			return info, nil
		}
		missing = missing || errors.Is(err, ErrNotFound)
		errs = append(errs, err)
	}
	return Info{}, verdict(ctx, "stat", key, missing, errs)
}

// ReadAll returns a small object whole; more than limit bytes are an error.
func (s *Store) ReadAll(ctx context.Context, key string, limit int64, p Placement) ([]byte, error) {
	r, info, err := s.Get(ctx, key, 0, -1, p)
	if err != nil {
		return nil, err
	}
	return readAll(r, info, limit)
}

// ReadAll is Store.ReadAll in this region alone.
func (b *Bucket) ReadAll(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, info, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	return readAll(r, info, limit)
}

func readAll(r io.ReadCloser, info Info, limit int64) ([]byte, error) {
	if info.Size > limit {
		return nil, errors.Join(fmt.Errorf("read %s: %d bytes, more than the limit of %d", info.Key, info.Size, limit), r.Close())
	}
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil && int64(len(b)) != info.Size {
		err = fmt.Errorf("read %s: %w: %d of %d bytes", info.Key, io.ErrUnexpectedEOF, len(b), info.Size)
	}
	return b, errors.Join(err, r.Close())
}

// verdict is ErrNotFound when a region said so, ErrUnavailable when none answered.
func verdict(ctx context.Context, what, key string, missing bool, errs []error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: %w", what, key, ctx.Err())
	case missing:
		return fmt.Errorf("%s %s: %w", what, key, ErrNotFound)
	default:
		return fmt.Errorf("%s %s: %w: %w", what, key, ErrUnavailable, errors.Join(errs...))
	}
}

// failoverReader reads a range of an immutable object from one region after another.
type failoverReader struct {
	ctx            context.Context
	key            string
	offset, length int64
	candidates     []*Bucket
	next           int
	body           io.ReadCloser
	cancel         context.CancelCauseFunc
	watchdog       *time.Timer
	errs           []error
	missing        bool
}

func (r *failoverReader) open() (Info, error) {
	for r.next < len(r.candidates) {
		b := r.candidates[r.next]
		r.next++
		ctx, cancel := context.WithCancelCause(r.ctx)
		watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
		body, info, err := b.Get(ctx, r.key, r.offset, r.length)
		if err == nil {
			r.body, r.cancel, r.watchdog = body, cancel, watchdog
			return info, nil
		}
		watchdog.Stop()
		cancel(context.Canceled)
		r.missing = r.missing || errors.Is(err, ErrNotFound)
		r.errs = append(r.errs, err)
		if r.ctx.Err() != nil {
			break
		}
	}
	return Info{}, verdict(r.ctx, "get", r.key, r.missing, r.errs)
}

func (r *failoverReader) Read(p []byte) (int, error) {
	for {
		if r.length == 0 {
			return 0, io.EOF
		}
		if int64(len(p)) > r.length {
			p = p[:r.length]
		}
		r.watchdog.Reset(silence)
		n, err := r.body.Read(p)
		r.watchdog.Stop()
		r.offset += int64(n)
		r.length -= int64(n)
		if n > 0 || r.length == 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.errs = append(r.errs, fmt.Errorf("%s: %w", r.candidates[r.next-1].Region, err))
		if cerr := r.Close(); cerr != nil {
			r.errs = append(r.errs, cerr)
		}
		if _, err := r.open(); err != nil {
			return 0, err
		}
	}
}

func (r *failoverReader) Close() error {
	if r.body == nil {
		return nil
	}
	r.watchdog.Stop()
	r.cancel(context.Canceled)
	err := r.body.Close()
	r.body = nil
	return err
}
