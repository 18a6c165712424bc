package objects

import (
	"context"
	"errors"
	"fmt"

	"github.com/minio/minio-go/v7"
)

// List calls f for every object under prefix in this region, in key order from
// the first key after startAfter, until f returns false.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string, f func(Info) bool) error {
	return b.guard(func() error {
		opt := minio.ListObjectsOptions{Prefix: prefix, StartAfter: startAfter, Recursive: true}
		// The iterator, for the channel leaks its goroutine when it isn't drained.
		for o := range b.core.Client.ListObjectsIter(ctx, b.name, opt) {
			if o.Err != nil {
				return fmt.Errorf("list %s: %w", prefix, cause(ctx, o.Err))
			}
			if !f(b.info(o.Key, o, o.Size)) {
				return nil
			}
		}
		return ctx.Err()
	})
}

// Last returns the greatest key under prefix in this region, ErrNotFound when
// there is none.
func (b *Bucket) Last(ctx context.Context, prefix string) (string, error) {
	last := ""
	err := b.List(ctx, prefix, "", func(i Info) bool { last = i.Key; return true })
	if err == nil && last == "" {
		err = fmt.Errorf("list %s in %s: %w", prefix, b.Region, ErrNotFound)
	}
	return last, err
}

// Delete removes one object in this region; a missing one is success.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.guard(func() error {
		return b.core.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{})
	})
}

// DeletePrefix removes every object under prefix in every region. Regions that
// can't be reached are in the error; their repair loop finishes the work.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) error {
	var errs []error
	for _, b := range s.buckets {
		var keys []string
		err := b.List(ctx, prefix, "", func(i Info) bool { keys = append(keys, i.Key); return true })
		for _, key := range keys {
			if derr := b.Delete(ctx, key); derr != nil {
				err = errors.Join(err, derr)
				break
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
