package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"
)

// stall is how long a copy may make no progress; longer than silence, because
// two stores may be slow at a time and nobody waits for it.
const stall = 5 * time.Second

// SourceError says that a copy failed at the region it was made from.
type SourceError struct {
	Region string
	Err    error
}

func (e *SourceError) Error() string { return "copy from " + e.Region + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// CopyFrom writes another region's object into this one, if its bytes are those
// its hash names: a damaged one (ErrDamaged) arrives nowhere, and of one without
// a hash (ErrNoHash) that can't be told. Failures of the other region are a
// *SourceError. Finding the same bytes here is success.
func (b *Bucket) CopyFrom(ctx context.Context, from *Bucket, key string) (Info, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	watchdog := time.AfterFunc(stall, func() { cancel(errSilent) })
	defer watchdog.Stop()
	body, info, err := from.Get(ctx, key, 0, -1)
	if err != nil {
		return Info{}, &SourceError{from.Region, err}
	}
	r := &checkedReader{ctx: ctx, body: body, left: info.Size, sum: sha256.New(), watchdog: watchdog}
	want, err := hex.DecodeString(info.SHA256)
	if err == nil && len(want) != sha256.Size {
		err = ErrNoHash
	}
	if err == nil && info.Size == 0 {
		err = r.check([sha256.Size]byte(want))
	}
	if err != nil {
		return Info{}, errors.Join(&SourceError{from.Region, fmt.Errorf("%s: %w", key, err)}, body.Close())
	}
	copy(r.want[:], want)
	err = b.guard(func() error {
		err := b.put(ctx, key, Body{Size: info.Size, SHA256: r.want}, r)
		if err != nil && r.failed.Load() != nil {
			err = &SourceError{from.Region, fmt.Errorf("%s: %w", key, *r.failed.Load())}
		}
		return err
	})
	return info, errors.Join(err, body.Close())
}

// checkedReader reads a body and hands out its last bytes only if the whole is right.
type checkedReader struct {
	ctx      context.Context
	body     io.Reader
	left     int64
	sum      hash.Hash
	want     [sha256.Size]byte
	watchdog *time.Timer
	failed   atomic.Pointer[error] // why the source gave no more
}

func (r *checkedReader) check(want [sha256.Size]byte) error {
	if got := [sha256.Size]byte(r.sum.Sum(nil)); got != want {
		return fmt.Errorf("%w: sha256 %x, want %x", ErrDamaged, got, want)
	}
	return nil
}

func (r *checkedReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	_, _ = r.sum.Write(p[:n]) // never fails
	if r.left -= int64(n); r.left == 0 {
		// From here on the store's answer is waited for, under its own deadline.
		r.watchdog.Stop()
		if err := r.check(r.want); err != nil {
			return 0, r.fail(err)
		}
		return n, nil
	}
	r.watchdog.Reset(stall)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, r.fail(cause(r.ctx, err))
	}
	return n, nil
}

func (r *checkedReader) fail(err error) error {
	r.failed.Store(&err)
	return err
}
