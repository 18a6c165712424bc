package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

const (
	// readSize is the most bytes read between two wake-ups of the readers.
	readSize = 128 << 10
	// patience is how long a fill waits for its turn before it is shed.
	patience = 2 * time.Second
)

// fill brings the object's bytes from disk or origin; it runs once per object.
func (c *Cache) fill(o *Object, src Source) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.FillTimeout)
	defer cancel()
	err := c.acquire(ctx, 1, c.running.Acquire)
	if err == nil {
		err = c.pour(ctx, o, src)
		c.running.Release(1)
	}
	if err == nil {
		if f := c.cfg.Events.Filled; f != nil && !o.direct && o.disk == nil {
			f(o.tier, o.info.Size, time.Since(started))
		}
		return
	}
	if c.ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if f := c.cfg.Events.Failed; f != nil {
		f(o.tier, err)
	}
	c.giveUp(o, err)
}

// giveUp tells the readers and takes the object out; that it is missing is
// remembered for a moment.
func (c *Cache) giveUp(o *Object, err error) {
	missing := errors.Is(err, ErrNotFound)
	if missing {
		o.expires = time.Now().Add(c.cfg.MissingFor)
		missing = c.admit(o, overhead)
	}
	o.fail(err)
	select {
	case <-o.opened:
	default:
		close(o.opened)
	}
	if !missing {
		c.forget(o)
	}
}

func (c *Cache) acquire(ctx context.Context, n int64, f func(context.Context, int64) error) error {
	actx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := f(actx, n); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrBusy
	}
	return nil
}

// stream is where a fill reads from. It starts on disk when the object is there
// and goes over to the origin, at the same byte, when the disk's bytes are damaged.
type stream struct {
	c    *Cache
	o    *Object
	src  Source
	body io.ReadCloser
	disk bool
}

func (s *stream) open(ctx context.Context) (Info, error) {
	if s.c.disk != nil {
		if r, info, ok := s.c.disk.open(s.o.key); ok {
			s.body, s.disk = r, true
			return info, nil
		}
	}
	body, info, err := s.src(ctx, 0)
	if err != nil {
		return Info{}, err
	}
	s.body = body
	if info.Fetched.IsZero() {
		info.Fetched = time.Now()
	}
	return info, nil
}

// read fills p at offset at least in part.
func (s *stream) read(ctx context.Context, p []byte, offset int64) (int, error) {
	for {
		n, err := s.body.Read(p)
		if n > 0 {
			return n, nil
		}
		switch {
		case err == nil:
			continue
		case !s.disk:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		s.c.disk.damaged(s.o.key, err)
		body, info, oerr := s.src(ctx, offset)
		if oerr != nil {
			return 0, errors.Join(oerr, err)
		}
		err = errors.Join(s.body.Close(), nil)
		s.body, s.disk = body, false
		if err != nil {
			return 0, err
		}
		if info.Size != s.o.info.Size || info.ETag != s.o.info.ETag {
			return 0, fmt.Errorf("%w: disk had %s of %d bytes, origin has %s of %d", ErrCorrupt, s.o.info.ETag, s.o.info.Size, info.ETag, info.Size)
		}
	}
}

func (c *Cache) pour(ctx context.Context, o *Object, src Source) (err error) {
	s := &stream{c: c, o: o, src: src}
	info, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.body.Close(); cerr != nil && err == nil && !o.complete.Load() {
			err = cerr
		}
	}()
	if info.Size < 0 {
		return fmt.Errorf("%w: size %d", ErrCorrupt, info.Size)
	}
	o.info = info
	fromDisk := s.disk
	if fromDisk {
		o.tier = Disk
		if r := s.body.(*recordReader); c.stays(o, r) {
			c.leave(o, r)
			return nil
		}
		o.wanted.Store(true) // it is written again if its bytes are damaged
	}
	if info.Size > c.cfg.MaxObject {
		o.direct = true
		o.written.Store(true)
		if !c.admit(o, overhead) {
			c.forget(o)
		}
		o.finish()
		close(o.opened)
		return nil
	}
	if err := c.acquire(ctx, info.Size, c.arriving.Acquire); err != nil {
		return err
	}
	defer c.arriving.Release(info.Size)
	o.pinned.Store(true)
	defer o.pinned.Store(false)
	kept := c.admit(o, info.Size+overhead)
	o.body = make([]byte, info.Size)
	if info.Size > 0 {
		close(o.opened)
	}
	if err := s.copy(ctx, sha256.New()); err != nil {
		if err = s.mend(ctx, err); err != nil {
			return err
		}
	}
	if fromDisk && s.disk || info.Peer {
		o.written.Store(true)
	}
	o.finish()
	if info.Size == 0 {
		close(o.opened) // nothing to wait for but this: whoever has it finds it complete
	}
	if !kept {
		c.forget(o)
	}
	if o.wanted.Load() {
		c.write(o)
	}
	return nil
}

// mend reads the object a second time after its bytes turned out wrong with err,
// from another origin where the source has one. When what readers have of it was
// right, they get the right rest; else the object is put in their place for those
// who ask next, and err stands.
func (s *stream) mend(ctx context.Context, err error) error {
	bad, ok := s.body.(Rejecter)
	if !ok || !errors.Is(err, ErrCorrupt) {
		return err
	}
	bad.Reject()
	body, info, oerr := s.src(ctx, 0)
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	if info.Fetched.IsZero() {
		info.Fetched = time.Now()
	}
	defer func() { _ = body.Close() }() // its bytes are checked
	if info.Size < 0 || info.Size > s.c.cfg.MaxObject {
		return err
	}
	if aerr := s.c.acquire(ctx, info.Size, s.c.arriving.Acquire); aerr != nil {
		return errors.Join(err, aerr)
	}
	defer s.c.arriving.Release(info.Size)
	good := make([]byte, info.Size)
	if _, rerr := io.ReadFull(body, good); rerr != nil {
		return errors.Join(err, rerr)
	}
	if sum := sha256.Sum256(good); info.SHA256 == "" || hex.EncodeToString(sum[:]) != info.SHA256 {
		return err
	}
	o := s.o
	here := o.Available()
	if info.Size == o.info.Size && info.ETag == o.info.ETag && bytes.Equal(good[:here], o.body[:here]) {
		copy(o.body[here:], good[here:])
		return nil
	}
	better := s.c.newObject(o.key, o.hash)
	better.born = o.born
	better.wanted.Store(o.wanted.Load())
	s.c.put(better, info, good, nil)
	return err
}

// copy reads the whole body and hands out all but the last piece; the caller
// does that once copy has found the bytes right. Those from disk were checked block
// by block.
func (s *stream) copy(ctx context.Context, sum hash.Hash) error {
	o, fromDisk := s.o, s.disk
	size := int64(len(o.body))
	for at := int64(0); at < size; {
		n, err := s.read(ctx, o.body[at:min(at+readSize, size)], at)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, size, err)
		}
		if !fromDisk {
			_, _ = sum.Write(o.body[at : at+int64(n)])
		}
		if at += int64(n); at < size {
			o.publish(at)
		}
	}
	if s.disk {
		return nil
	}
	if fromDisk {
		_, _ = sum.Write(o.body)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); o.info.SHA256 != "" && got != o.info.SHA256 {
		return fmt.Errorf("%w: sha256 %s, want %s", ErrCorrupt, got, o.info.SHA256)
	}
	return nil
}
