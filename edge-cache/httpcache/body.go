package httpcache

import (
	"context"
	"errors"
	"io"
	"sync"
)

var (
	// errOverflow: the body became larger than what is kept; who asked first goes on.
	errOverflow = errors.New("body is larger than what is kept")
	errCut      = errors.New("body ended before its length")
)

// arriving is a body while it comes from the origin. Its readers are woken.
type arriving struct {
	mu    sync.Mutex
	buf   []byte
	done  bool
	err   error
	woken chan struct{}
	rest  io.ReadCloser // after an overflow, until it is taken
	left  bool          // who asked first is gone
}

func newArriving(size int64) *arriving {
	n := size
	if n < 0 {
		n = 4096
	}
	return &arriving{buf: make([]byte, 0, n), woken: make(chan struct{})}
}

// Bytes implements deliver.Body.
func (a *arriving) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	for {
		a.mu.Lock()
		buf, done, err, woken := a.buf, a.done, a.err, a.woken
		a.mu.Unlock()
		switch {
		case int64(len(buf)) > offset:
			return buf[offset:], nil
		case err != nil:
			return nil, err
		case done:
			return nil, io.EOF
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Complete implements deliver.Body.
func (a *arriving) Complete() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

// fill reads all of r; size is -1 when it isn't known. keep is called with the
// whole body before its readers see the end of it. After errOverflow r is still
// open and the first asker's.
func (a *arriving) fill(r io.ReadCloser, size, limit int64, keep func(body []byte)) error {
	var err error
	at := 0 // bytes read; all but the last piece of a known size are published
	for err == nil && int64(at) != size {
		room := a.buf[at:cap(a.buf)]
		if len(room) == 0 {
			// Readers keep the old array: its bytes don't change.
			a.grow(limit)
			if room = a.buf[at:cap(a.buf)]; len(room) == 0 {
				return a.overflow(r)
			}
		}
		var n int
		n, err = r.Read(room[:min(len(room), 128<<10)])
		if at += n; n > 0 && int64(at) != size {
			a.wake(func() { a.buf = a.buf[:at] })
		}
	}
	switch {
	case int64(at) == size:
		// There must be no more: net/http gives at most the length it was told.
		err = nil
	case errors.Is(err, io.EOF):
		if err = nil; size >= 0 {
			err = errCut
		}
	}
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		keep(a.buf[:at:at])
	}
	a.wake(func() {
		if a.done, a.err = err == nil, err; err == nil {
			a.buf = a.buf[:at]
		}
	})
	return err
}

func (a *arriving) grow(limit int64) {
	n := min(2*int64(cap(a.buf)), limit)
	if n <= int64(cap(a.buf)) {
		return
	}
	buf := make([]byte, len(a.buf), n)
	copy(buf, a.buf)
	a.mu.Lock()
	a.buf = buf
	a.mu.Unlock()
}

func (a *arriving) wake(change func()) {
	a.mu.Lock()
	change()
	close(a.woken)
	a.woken = make(chan struct{})
	a.mu.Unlock()
}

func (a *arriving) overflow(r io.ReadCloser) error {
	left := false
	a.wake(func() {
		a.err = errOverflow
		if left = a.left; !left {
			a.rest = r
		}
	})
	if left {
		return errors.Join(errOverflow, r.Close())
	}
	return errOverflow
}

// first is the body as who asked first reads it: past an overflow.
type first struct {
	*arriving
	buf  []byte
	at   int64
	last []byte
}

// Bytes implements deliver.Body.
func (f *first) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	b, err := f.arriving.Bytes(ctx, offset)
	if !errors.Is(err, errOverflow) {
		return b, err
	}
	if f.buf == nil {
		f.buf, f.at = make([]byte, 64<<10), offset
	}
	if offset == f.at-int64(len(f.last)) && len(f.last) > 0 {
		return f.last, nil
	}
	if offset != f.at {
		return nil, errOverflow // read forward only
	}
	n, err := f.rest.Read(f.buf)
	if n > 0 {
		f.last, f.at = f.buf[:n], f.at+int64(n)
		return f.last, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return nil, err
}

// leave is called when who asked first has what it wanted, or is gone.
func (a *arriving) leave() error {
	a.mu.Lock()
	rest := a.rest
	a.left, a.rest = true, nil
	a.mu.Unlock()
	if rest != nil {
		return rest.Close()
	}
	return nil
}

func (a *arriving) abandoned() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

func (a *arriving) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}
