package edgecache

import (
	"context"
	"errors"
	"io"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// streamed is a body read straight from the origin: an object too large to keep.
// It serves one request and reads forward only, opening the origin again where
// a range starts elsewhere.
type streamed struct {
	open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	r    io.ReadCloser
	at   int64 // of the next byte
	buf  []byte
	last []byte // read last
}

func (s *streamed) Complete() bool { return false }

func (s *streamed) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	if n := int64(len(s.last)); s.r != nil && n > 0 && offset == s.at-n {
		return s.last, nil
	}
	if s.r == nil || s.at != offset {
		if err := s.Close(); err != nil {
			return nil, err
		}
		r, err := s.open(ctx, offset)
		if err != nil {
			return nil, err
		}
		s.r, s.at, s.last = r, offset, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, deliver.WriteSize)
	}
	for {
		n, err := s.r.Read(s.buf)
		if n > 0 {
			s.last, s.at = s.buf[:n], s.at+int64(n)
			return s.last, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
}

// Close ends the read from the origin.
func (s *streamed) Close() error {
	if s.r == nil {
		return nil
	}
	err := s.r.Close()
	s.r = nil
	return err
}
