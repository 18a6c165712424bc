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

// File is a part list seen as one file.
type File struct {
	fetch  Fetcher
	parts  []Part
	starts []int64
	size   int64

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
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
	f := &File{fetch: fetch, parts: parts, blocks: map[int64]*block{}, lru: list.New()}
	for _, p := range parts {
		f.starts = append(f.starts, f.size)
		f.size += p.Size
	}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// Size is the sum of the parts.
func (f *File) Size() int64 { return f.size }

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
	if (n+1)*blockSize < f.size {
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
	for filled := 0; filled < len(out); {
		off := start + int64(filled)
		i := sort.Search(len(f.starts), func(i int) bool { return f.starts[i] > off }) - 1
		part, in := f.parts[i], off-f.starts[i]
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
