package cache

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// queueLen and queueBytes bound what waits for the disk; more is not kept there.
	queueLen   = 256
	queueBytes = 64 << 20
	// minSegments is into how many segments the log is cut: the oldest is dropped
	// whole, so this is the granularity of giving up space.
	minSegments = 16
	maxSegment  = 64 << 20
)

// diskLog is the disk tier: a row of append-only segment files, the oldest of
// which is dropped when space is needed; objects of it that were hit since they
// were written are written again. One goroutine writes; after a failure it looks
// from time to time whether the disk works again.
type diskLog struct {
	dir        string
	capacity   int64
	segmentMax int64
	maxObject  int64
	drops      *drops
	log        *slog.Logger
	lock       *os.File

	queue   chan work
	waiting atomic.Int64 // bytes in queue
	done    chan struct{}

	closeMu sync.RWMutex // held for writing by close alone
	closed  bool

	// The writer's: when a failed disk is looked at again, after which pause, and
	// what must be removed from it before.
	retry      *time.Timer
	retryFirst time.Duration
	pause      time.Duration
	works      time.Time // since when it does
	owed       []func(key string) bool

	mu       sync.Mutex
	index    map[string]*place
	segments []*segment // oldest first; the last may be active
	active   *segment
	nextID   uint64
	bytes    int64
	state    DiskState
}

// place is where an object's record lies.
type place struct {
	seg  *segment
	at   int64
	head int32
	size int64
	hits atomic.Int32
	// verified: all of the record was read since the log was opened, and was right.
	verified atomic.Bool
}

func (p *place) end() int64 { return p.at + aligned(int64(p.head)+p.size) }

// body is where the object's bytes begin.
func (p *place) body() int64 { return p.at + int64(p.head) }

// readBlock reads the object's block i into b, which has its length, and checks it.
func (p *place) readBlock(i int, sum uint32, b []byte) error {
	if _, err := p.seg.file.ReadAt(b, p.body()+int64(i)*blockSize); err != nil {
		return fmt.Errorf("read block %d: %w", i, noEOF(err))
	}
	if crc32.Checksum(b, castagnoli) != sum {
		return fmt.Errorf("block %d of %s at %d: checksum is wrong", i, p.seg.file.Name(), p.at)
	}
	return nil
}

type segment struct {
	id   uint64
	file *os.File
	fd   int
	size int64
	keys []string // in order of writing; may have moved elsewhere since
	// refs counts the log and the readers: the last one closes the file. dead: the
	// log has let go of it.
	refs atomic.Int64
	dead atomic.Bool
}

func newSegment(id uint64, f *os.File) *segment {
	s := &segment{id: id, file: f, fd: int(f.Fd())}
	s.refs.Store(1)
	return s
}

// hold has the file stay open until release; false when the log has let go of it.
func (s *segment) hold() bool {
	for !s.dead.Load() {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (s *segment) release() error {
	if s.refs.Add(-1) == 0 {
		return s.file.Close()
	}
	return nil
}

// letGo ends the log's use of the file. The caller must be the log's writer, or alone.
func (s *segment) letGo() error {
	s.dead.Store(true)
	return s.release()
}

func (d *diskLog) segmentPath(id uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%016x.log", id))
}

const lockFile = "lock"

// lockDir makes dir this process's.
func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cache directory %s is used by another process: %w", dir, err), lock.Close())
	}
	return lock, nil
}

// openLog opens the log in dir, making it, and reads its index. retryFirst is the
// pause before a disk that has failed is looked at.
func openLog(dir string, capacity, maxObject int64, retryFirst time.Duration, drops *drops, log *slog.Logger) (*diskLog, error) {
	if capacity < 4*maxObject {
		return nil, fmt.Errorf("cache directory %s: %d bytes: want at least four times the largest object (%d)", dir, capacity, maxObject)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	d := &diskLog{dir: dir, capacity: capacity, segmentMax: min(maxSegment, capacity/minSegments), maxObject: maxObject, drops: drops, log: log, lock: lock,
		queue: make(chan work, queueLen), done: make(chan struct{}), index: map[string]*place{}, retryFirst: retryFirst, works: time.Now(), retry: time.NewTimer(time.Hour)}
	d.retry.Stop()
	if err := d.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("cache directory: %w", err), d.closeFiles(), lock.Close())
	}
	go d.write()
	return d, nil
}

func (d *diskLog) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.Err
}

func (d *diskLog) size() (bytes int64, objects int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes, len(d.index)
}

// keys are those of all objects.
func (d *diskLog) keys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.index))
}

// enqueue gives a complete object to the writer; false when it is behind.
func (d *diskLog) enqueue(o *Object) bool {
	d.closeMu.RLock()
	defer d.closeMu.RUnlock()
	if d.closed {
		return false
	}
	if d.waiting.Add(o.info.Size) > queueBytes {
		d.waiting.Add(-o.info.Size)
		return false
	}
	select {
	case d.queue <- work{object: o}:
		return true
	default:
		d.waiting.Add(-o.info.Size)
		return false
	}
}

// work is what the writer does next: an object to append, or objects to remove.
type work struct {
	object  *Object
	match   func(key string) bool
	removed chan error // buffered
}

// remove forgets every object whose key matches, those waiting to be written
// included. It lasts: opening the log again doesn't find them.
func (d *diskLog) remove(match func(key string) bool) error {
	d.closeMu.RLock()
	if d.closed {
		d.closeMu.RUnlock()
		return ErrClosed
	}
	w := work{match: match, removed: make(chan error, 1)}
	d.queue <- w // the writer always goes on
	d.closeMu.RUnlock()
	return <-w.removed
}

func (d *diskLog) write() {
	defer close(d.done)
	defer d.retry.Stop()
	for {
		select {
		case w, ok := <-d.queue:
			if !ok {
				return
			}
			d.do(w)
		case <-d.retry.C:
			d.mend()
		}
	}
}

func (d *diskLog) do(w work) {
	err := d.failure()
	if w.match != nil {
		if err == nil {
			if err = d.erase(w.match); err != nil {
				d.fail(err)
			}
		}
		if err != nil {
			d.owe(w.match)
		}
		w.removed <- err
		return
	}
	o := w.object
	// One that was on its way when it was dropped may come after what removes it.
	if err == nil && !d.drops.since(o.born, o.key) {
		if err := d.store(o); err != nil {
			d.fail(err)
		}
	}
	d.waiting.Add(-o.info.Size)
}

// append writes a record at the log's end. Only the writer calls it.
func (d *diskLog) append(key string, info Info, body []byte, makeRoom bool) error {
	head, err := encodeHeader(key, info, body)
	if err != nil {
		return err
	}
	need := aligned(int64(len(head) + len(body)))
	if makeRoom {
		if err := d.makeRoom(need); err != nil {
			return err
		}
	}
	seg, err := d.writable(need)
	if err != nil {
		return err
	}
	// One record, one write: a crash leaves at most one cut record, at the end.
	buf := make([]byte, need)
	copy(buf[copy(buf, head):], body)
	if _, err := seg.file.WriteAt(buf, seg.size); err != nil {
		// What was written of it goes: behind a checkpoint it would have the segment
		// scanned, which finds what was erased too.
		return errors.Join(fmt.Errorf("write %s: %w", seg.file.Name(), err), seg.file.Truncate(seg.size))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.index[key] = &place{seg: seg, at: seg.size, head: int32(len(head)), size: info.Size}
	seg.keys = append(seg.keys, key)
	seg.size += need
	d.bytes += need
	return nil
}

// writable returns the active segment, a new one if need doesn't fit.
func (d *diskLog) writable(need int64) (*segment, error) {
	if d.active != nil && (d.active.size == 0 || d.active.size+need <= d.segmentMax) {
		return d.active, nil
	}
	if d.active != nil {
		if err := d.checkpoint(d.active); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(d.segmentPath(d.nextID), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	seg := newSegment(d.nextID, f)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextID++
	d.active, d.segments = seg, append(d.segments, seg)
	return seg, nil
}

// makeRoom drops the oldest segments until need fits, writing what was hit in
// them again, up to half a segment each so that it always ends.
func (d *diskLog) makeRoom(need int64) error {
	for {
		d.mu.Lock()
		if d.bytes+need <= d.capacity || len(d.segments) == 0 {
			d.mu.Unlock()
			return nil
		}
		seg := d.segments[0]
		if seg == d.active {
			d.active = nil
		}
		var again []string
		budget := seg.size / 2
		for _, key := range slices.Backward(seg.keys) {
			if p := d.index[key]; p != nil && p.seg == seg && p.hits.Load() > 0 && p.end()-p.at <= budget {
				budget -= p.end() - p.at
				again = append(again, key)
			}
		}
		d.mu.Unlock()
		type kept struct {
			info Info
			body []byte
		}
		rescued := map[string]kept{}
		for _, key := range again {
			r, info, ok := d.open(key)
			if !ok {
				continue
			}
			body, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				d.damaged(key, err)
				continue
			}
			rescued[key] = kept{info, body}
		}
		if err := d.drop(seg); err != nil {
			return err
		}
		for key, k := range rescued {
			if err := d.append(key, k.info, k.body, false); err != nil {
				return err
			}
		}
	}
}

// drop removes a segment; readers of it keep their file until they end.
func (d *diskLog) drop(seg *segment) error {
	d.mu.Lock()
	d.segments = slices.DeleteFunc(d.segments, func(s *segment) bool { return s == seg })
	for _, key := range seg.keys {
		if p := d.index[key]; p != nil && p.seg == seg {
			delete(d.index, key)
		}
	}
	d.bytes -= seg.size
	d.mu.Unlock()
	return errors.Join(d.removeFiles(seg.id), seg.letGo())
}

func (d *diskLog) removeFiles(id uint64) error {
	err := os.Remove(d.segmentPath(id))
	if ierr := os.Remove(d.indexPath(id)); !errors.Is(ierr, os.ErrNotExist) {
		err = errors.Join(err, ierr)
	}
	return err
}

// erase takes matching keys out of the index and of every checkpoint. Only the
// writer calls it.
func (d *diskLog) erase(match func(key string) bool) error {
	d.mu.Lock()
	for key := range d.index {
		if match(key) {
			delete(d.index, key)
		}
	}
	var touched []*segment
	empty := map[*segment]bool{}
	for _, seg := range d.segments {
		// Not by the index alone: an older record of a key may be in a checkpoint too.
		n := len(seg.keys)
		if seg.keys = slices.DeleteFunc(seg.keys, match); len(seg.keys) < n {
			touched, empty[seg] = append(touched, seg), len(seg.keys) == 0
		}
	}
	d.mu.Unlock()
	for _, seg := range touched {
		if seg == d.active {
			// Closed for good: records behind its checkpoint would have it scanned
			// after a crash, and the scan finds everything.
			d.active = nil
		}
		var err error
		if empty[seg] {
			err = d.drop(seg)
		} else {
			err = d.checkpoint(seg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// damaged forgets an object whose record turned out wrong.
func (d *diskLog) damaged(key string, err error) {
	d.mu.Lock()
	delete(d.index, key)
	d.mu.Unlock()
	d.log.Warn("cache disk: damaged object, fetched again", "key", key, "err", err)
}

// open finds an object; the reader must be closed.
func (d *diskLog) open(key string) (*recordReader, Info, bool) {
	d.mu.Lock()
	p := d.index[key]
	ok := p != nil && d.state.Err == nil && p.seg.hold()
	d.mu.Unlock()
	if !ok {
		return nil, Info{}, false
	}
	p.hits.Store(1)
	r := &recordReader{p: p}
	b := make([]byte, p.head)
	_, err := p.seg.file.ReadAt(b, p.at)
	if err == nil {
		r.head, err = decodeHeader(b, d.maxObject)
	}
	if err == nil && (r.head.key != key || r.head.info.Size != p.size) {
		err = errRecord
	}
	if err != nil {
		d.damaged(key, errors.Join(err, r.Close()))
		return nil, Info{}, false
	}
	return r, r.head.info, true
}

// recordReader reads a record's body, checking every block first. Once it has read all
// of them the record is verified.
type recordReader struct {
	p      *place
	head   header
	next   int    // block
	rest   []byte // of the block read last
	block  []byte
	closed bool
}

func (r *recordReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.next == len(r.head.blocks) {
			return 0, io.EOF
		}
		at := int64(r.next) * blockSize
		n := int(min(blockSize, r.p.size-at))
		b := p
		if len(b) < n {
			if r.block == nil {
				r.block = make([]byte, blockSize)
			}
			b = r.block
		}
		b = b[:n]
		if err := r.p.readBlock(r.next, r.head.blocks[r.next], b); err != nil {
			return 0, err
		}
		if r.next++; r.next == len(r.head.blocks) {
			r.p.verified.Store(true)
		}
		if len(p) >= n {
			return n, nil
		}
		r.rest = b
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// noEOF: the end of the file inside a record is damage, not the end of its body.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *recordReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	return r.p.seg.release()
}

// close writes what waits, checkpoints the index and closes the files.
func (d *diskLog) close() error {
	d.closeMu.Lock()
	d.closed = true
	close(d.queue)
	d.closeMu.Unlock()
	<-d.done
	var err error
	if d.active != nil && d.failure() == nil {
		err = d.checkpoint(d.active)
	}
	err = errors.Join(err, d.closeFiles())
	if d.lock != nil { // else it has failed
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

func (d *diskLog) closeFiles() error {
	var errs []error
	for _, s := range d.segments {
		errs = append(errs, s.letGo())
	}
	return errors.Join(errs...)
}
