package source

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"
)

// Part is one object of a source.
type Part struct {
	Key  string
	Size int64
}

// Fetcher opens a range of an immutable object.
type Fetcher interface {
	Fetch(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// Sizes of the cache of one file.
const (
	blockSize = 2 << 20
	maxBlocks = 24
	// fetchLimit is the longest one block may take, fail-over included.
	fetchLimit = 60 * time.Second
)

// MissingError is a read of bytes that have not arrived, and did not in time.
type MissingError struct {
	// Bytes of the source that must be there.
	Bytes int64
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("source: the first %d bytes have not all arrived", e.Bytes)
}

// Growth is of a source whose last part has not arrived.
type Growth struct {
	// Size is what it will have.
	Size int64
	// Parts returns those that have arrived.
	Parts func(ctx context.Context) ([]Part, error)
	// Patience is how long a read waits for bytes; Waits how long all reads do
	// together, 0 for any time.
	Patience, Waits time.Duration
}

// File is a part list seen as one file.
type File struct {
	fetch Fetcher
	size  int64
	grow  Growth
	// asking is held by the reader that asks for more parts.
	asking chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex
	// parts and starts only grow; there is the sum of the parts.
	parts  []Part
	starts []int64
	there  int64
	missed *MissingError
	waited time.Duration
	blocks map[int64]*block
	lru    *list.List // of block numbers, most recent first
	err    error
	closed bool
}

type block struct {
	done chan struct{}
	data []byte
	err  error
	elem *list.Element
}

// Open makes a file of parts in order. Close it to end its fetches.
func Open(ctx context.Context, fetch Fetcher, parts []Part) *File {
	f := open(ctx, fetch, parts)
	f.size = f.there
	return f
}

// OpenGrowing makes a file of which only the first parts have arrived. Reads of the
// rest wait, and fail with *MissingError.
func OpenGrowing(ctx context.Context, fetch Fetcher, parts []Part, g Growth) *File {
	f := open(ctx, fetch, parts)
	f.size, f.grow = g.Size, g
	return f
}

func open(ctx context.Context, fetch Fetcher, parts []Part) *File {
	f := &File{fetch: fetch, blocks: map[int64]*block{}, lru: list.New(), asking: make(chan struct{}, 1)}
	f.add(parts)
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// add takes parts over that aren't known yet.
func (f *File) add(parts []Part) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range parts[min(len(f.parts), len(parts)):] {
		f.parts = append(f.parts, p)
		f.starts = append(f.starts, f.there)
		f.there += p.Size
	}
}

// Size is what the file has when it is complete.
func (f *File) Size() int64 { return f.size }

// Readable is how many bytes from the beginning can be read without waiting: whole
// blocks.
func (f *File) Readable() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.there >= f.size {
		return f.size
	}
	return f.there / blockSize * blockSize
}

// Needed is how many bytes must have arrived for the first n to be readable.
func (f *File) Needed(n int64) int64 {
	return min((n+blockSize-1)/blockSize*blockSize, f.size)
}

// askEvery is how often a file whose reader waits asks for new parts.
const askEvery = 500 * time.Millisecond

// Await returns how many bytes are readable from off on, at least one: it waits for it.
func (f *File) Await(ctx context.Context, off int64) (int64, error) {
	for began := time.Now(); ; {
		if n := f.Readable() - off; n > 0 {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.waited += time.Since(began)
			return n, nil
		}
		f.mu.Lock()
		left := f.grow.Patience
		if f.grow.Waits > 0 {
			left = min(left, f.grow.Waits-f.waited)
		}
		f.mu.Unlock()
		if f.grow.Parts == nil || time.Since(began) >= left {
			return 0, f.missing(off)
		}
		if err := f.ask(ctx); err != nil {
			return 0, err
		}
	}
}

// ask looks for new parts, once for all who wait, and rests.
func (f *File) ask(ctx context.Context) error {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(askEvery):
		return nil
	}
	parts, err := f.grow.Parts(ctx)
	if err != nil {
		return f.fail(err)
	}
	before := f.Readable()
	f.add(parts)
	if f.Readable() > before {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(askEvery):
		return nil
	}
}

// missing notes that off is wanted and isn't there.
func (f *File) missing(off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := &MissingError{Bytes: f.Needed(off + 1)}
	if f.missed == nil || f.missed.Bytes < m.Bytes {
		f.missed = m
	}
	return m
}

// Missing is the furthest read that waited for bytes in vain, nil if none did. It
// may have been ahead of what its reader wanted: the server fills buffers.
func (f *File) Missing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missed == nil {
		return nil
	}
	return f.missed
}

func (f *File) fail(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		f.err = err
	}
	return err
}

// Err is the last failure to fetch, nil if none: a reader that failed after it
// failed because of it.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Close ends all fetches and waits for them.
func (f *File) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
}

// ReadAt reads len(p) bytes, fewer only with an error; io.EOF at the file's end.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		if off+int64(n) >= f.size {
			return n, io.EOF
		}
		if _, err := f.Await(ctx, off+int64(n)); err != nil {
			return n, err
		}
		b, at, err := f.view(ctx, off+int64(n))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[at:])
	}
	return n, nil
}

// view returns the block that holds off, and where off is in it.
func (f *File) view(ctx context.Context, off int64) ([]byte, int, error) {
	n := off / blockSize
	b := f.block(n)
	// The next one is wanted soon by whoever reads on.
	if next := min((n+2)*blockSize, f.size); next > (n+1)*blockSize && next <= f.Readable() {
		f.block(n + 1)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if b.err != nil {
		return nil, 0, b.err
	}
	return b.data, int(off - n*blockSize), nil
}

// block returns block n, starting its fetch if nobody has.
func (f *File) block(n int64) *block {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.blocks[n]; ok {
		f.lru.MoveToFront(b.elem)
		return b
	}
	b := &block{done: make(chan struct{})}
	if f.closed {
		b.err = context.Canceled
		close(b.done)
		return b
	}
	b.elem = f.lru.PushFront(n)
	f.blocks[n] = b
	for f.lru.Len() > maxBlocks {
		old, ok := f.lru.Remove(f.lru.Back()).(int64)
		if !ok {
			break
		}
		delete(f.blocks, old)
	}
	f.wg.Go(func() {
		b.data, b.err = f.load(n)
		f.mu.Lock()
		if b.err != nil {
			// Whoever asks again tries again.
			if f.blocks[n] == b {
				delete(f.blocks, n)
				f.lru.Remove(b.elem)
			}
			if !errors.Is(b.err, context.Canceled) {
				f.err = b.err
			}
		}
		f.mu.Unlock()
		close(b.done)
	})
	return b
}

// load fetches block n from the parts it spans.
func (f *File) load(n int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(f.ctx, fetchLimit)
	defer cancel()
	start := n * blockSize
	out := make([]byte, min(blockSize, f.size-start))
	f.mu.Lock()
	parts, starts := f.parts, f.starts
	f.mu.Unlock()
	for filled := 0; filled < len(out); {
		off := start + int64(filled)
		i := sort.Search(len(starts), func(i int) bool { return starts[i] > off }) - 1
		part, in := parts[i], off-starts[i]
		want := int(min(int64(len(out)-filled), part.Size-in))
		r, err := f.fetch.Fetch(ctx, part.Key, in, int64(want))
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		got, err := io.ReadFull(r, out[filled:filled+want])
		cerr := r.Close()
		if err != nil {
			return nil, fmt.Errorf("source: read %s at %d: %w", part.Key, in+int64(got), errors.Join(err, cerr))
		}
		filled += want
	}
	return out, nil
}
