package source

import (
	"context"
	"io"
)

// Piece of a View: bytes, or Size bytes of its base from From on.
type Piece struct {
	Bytes      []byte
	From, Size int64
}

func (p Piece) size() int64 {
	if p.Bytes != nil {
		return int64(len(p.Bytes))
	}
	return p.Size
}

// View is a file put together of bytes and of ranges of another file.
type View struct {
	base   Reader
	pieces []Piece
	size   int64
}

// NewView puts pieces in a row.
func NewView(base Reader, pieces ...Piece) *View {
	v := &View{base: base, pieces: pieces}
	for _, p := range pieces {
		v.size += p.size()
	}
	return v
}

// Size is the sum of the pieces.
func (v *View) Size() int64 { return v.size }

// at is the piece that holds off, and where off is in it.
func (v *View) at(off int64) (Piece, int64) {
	for _, p := range v.pieces {
		if off < p.size() {
			return p, off
		}
		off -= p.size()
	}
	return Piece{}, 0
}

// Await returns how many bytes can be read from off on, at least one.
func (v *View) Await(ctx context.Context, off int64) (int64, error) {
	p, in := v.at(off)
	left := p.size() - in
	if p.Bytes != nil {
		return left, nil
	}
	if a, ok := v.base.(Awaiter); ok {
		n, err := a.Await(ctx, p.From+in)
		return min(n, left), err
	}
	return left, nil
}

// ReadAt reads len(p) bytes, fewer only with an error; io.EOF at the end.
func (v *View) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		if off+int64(n) >= v.size {
			return n, io.EOF
		}
		p, in := v.at(off + int64(n))
		if p.Bytes != nil {
			n += copy(b[n:], p.Bytes[in:])
			continue
		}
		want := int(min(int64(len(b)-n), p.Size-in))
		got, err := v.base.ReadAt(ctx, b[n:n+want], p.From+in)
		n += got
		if err != nil && got < want {
			return n, err
		}
	}
	return n, nil
}
