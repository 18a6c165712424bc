package upload

import (
	"context"
	"errors"
	"io"
)

// bufferSize is what one upload holds in memory.
const bufferSize = 256 << 10

// WriteChunk stores the body of a request part by part: one fills while the one
// before is stored. It returns how many bytes the offset has moved.
func (u *source) WriteChunk(ctx context.Context, offset int64, src io.Reader) (int64, error) {
	t := transferOf(ctx)
	first := u.row.Parts
	full := make(chan *spool)
	stored := make(chan error, 1)
	failed := make(chan struct{})
	go func() {
		var err error
		at := offset
		for s := range full {
			if err == nil {
				if err = u.storePart(ctx, s, at); err != nil {
					close(failed)
				}
				at += s.size
			}
			err = errors.Join(err, s.close())
		}
		stored <- err
	}()
	rerr := u.receive(t, src, first, full, failed)
	close(full)
	serr := <-stored
	n := u.row.Received - offset
	switch {
	case serr != nil:
		return n, t.fail(serr)
	case rerr != nil:
		return n, t.fail(spoolError(rerr))
	case t.interrupted():
		return n, t.fail(t.stopped)
	}
	return n, nil
}

// receive cuts src into parts and hands them on until src ends, the request is
// interrupted or storing has failed.
func (u *source) receive(t *transfer, src io.Reader, part int, full chan<- *spool, failed <-chan struct{}) error {
	buf := make([]byte, bufferSize)
	stop := func() bool {
		select {
		case <-failed:
			return true
		default:
			return t.interrupted()
		}
	}
	for ; ; part++ {
		s, err := newSpool(u.cfg.SpoolDir)
		if err != nil {
			return err
		}
		end, err := s.fill(src, u.partSize(part), buf, stop)
		if err != nil || s.size == 0 {
			return errors.Join(err, s.close())
		}
		select {
		case full <- s:
		case <-failed:
			return s.close()
		}
		if end || stop() {
			return nil
		}
	}
}

// partSize grows from firstPart to the configured size.
func (u *source) partSize(part int) int64 {
	size := int64(firstPart)
	for ; part > 0 && size < u.cfg.PartBytes; part-- {
		size *= 2
	}
	return min(size, u.cfg.PartBytes)
}
