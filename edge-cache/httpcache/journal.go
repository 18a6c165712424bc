package httpcache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// journal has on disk which responses are stored, so that a restart finds their
// bodies again: an append-only file of what happened to the index. A response whose
// body the disk hasn't got means nothing. Replayed, it never gives one that was
// purged or invalidated before the last sync.
//
// One goroutine writes. When it can't, the file is removed, and nothing is noted until
// all of it could be written anew.
type journal struct {
	file string
	log  *slog.Logger
	// all writes what is stored now; disk tells whether the cache's disk is used, and how
	// often it came back, maybe as another.
	all  func(put func(uri string, s *response))
	disk func() cache.DiskState
	done chan struct{}

	mu      sync.Mutex
	pending []byte
	asked   uint64        // syncs asked for
	reached uint64        // of them, those done
	result  error         // of the last
	woken   chan struct{} // closed when reached changes
	work    chan struct{} // one is waiting when there is something to do
	lost    bool          // what was pending is
	closed  bool

	// The writer's.
	f       *os.File
	size    int64 // of the file; compact after a rewrite
	compact int64
	seen    int64     // recoveries
	broken  error     // why nothing is written
	removed bool      // then there is no file either
	retry   time.Time // not before
}

const (
	journalName  = "responses.journal"
	journalMagic = "MRESP001"
	// maxPending bounds what waits to be written of responses put; more isn't noted.
	maxPending = 4 << 20
	// maxEntry is more than a response can take.
	maxEntry = 1 << 20
	// rewriteFrom is the size from which a file twice as large as after the last
	// rewriting is written anew.
	rewriteFrom  = 4 << 20
	journalRetry = time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// What a record says happened: a response was put, or gone by its id, or all of a URI
// were, or of a key. The last two also mean what the index had no room for any more.
const (
	opPut  = 'p'
	opGone = 'g'
	opURI  = 'u'
	opKey  = 'k'
)

// replayed is told what a journal has, in the order it happened.
type replayed interface {
	put(uri string, s, old *response)
	goneByID(id string)
	invalidate(uri string) int
	purge(key string) int
}

// readJournal replays the journal of dir, where there is one, up to the first record
// that isn't whole.
func readJournal(dir string, to replayed) error {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	replay(bufio.NewReaderSize(f, 1<<20), to)
	return nil
}

func replay(r io.Reader, to replayed) {
	magic := make([]byte, len(journalMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != journalMagic {
		return
	}
	head, b := make([]byte, 8), []byte(nil)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		n := binary.LittleEndian.Uint32(head)
		if n == 0 || n > maxEntry {
			return
		}
		if uint32(cap(b)) < n {
			b = make([]byte, n)
		}
		b = b[:n]
		if _, err := io.ReadFull(r, b); err != nil || crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return
		}
		d := decoder{b: b[1:]}
		switch b[0] {
		case opPut:
			if uri, s, ok := d.response(); ok {
				to.put(uri, s, nil)
			}
		case opGone:
			to.goneByID(d.text())
		case opURI:
			to.invalidate(d.text())
		case opKey:
			to.purge(d.text())
		}
	}
}

// openJournal writes the journal of dir anew and keeps it from then on.
func openJournal(dir string, log *slog.Logger, all func(func(string, *response)), disk func() cache.DiskState) *journal {
	j := &journal{file: filepath.Join(dir, journalName), log: log, all: all, disk: disk, done: make(chan struct{}), woken: make(chan struct{}), work: make(chan struct{}, 1)}
	j.seen = disk().Recoveries
	_ = j.failed(j.rewrite()) // it is told, and tried again
	go j.run()
	return j
}

// put notes that a response is stored. It doesn't wait.
func (j *journal) put(uri string, s *response) {
	if j == nil {
		return
	}
	j.mu.Lock()
	if len(j.pending) < maxPending && !j.closed {
		j.pending = appendEntry(j.pending, func(b []byte) []byte { return appendResponse(append(b, opPut), uri, s) })
	}
	j.mu.Unlock()
	j.wake()
}

// gone notes that a response isn't stored any more. It doesn't wait.
func (j *journal) gone(s *response) { j.note(opGone, s.id) }

// note notes what happened to what has the name. It doesn't wait.
func (j *journal) note(op byte, name string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	switch {
	case j.closed:
	case len(j.pending) >= 2*maxPending:
		j.pending, j.lost = nil, true // the disk hangs
	default:
		j.pending = appendEntry(j.pending, func(b []byte) []byte { return appendText(append(b, op), name) })
	}
	j.mu.Unlock()
	j.wake()
}

func (j *journal) wake() {
	select {
	case j.work <- struct{}{}:
	default:
	}
}

// sync waits until the file has what was noted before. An error means that a process
// that starts on the same directory may find what is gone.
func (j *journal) sync(ctx context.Context) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return errClosed
	}
	j.asked++
	want := j.asked
	j.mu.Unlock()
	j.wake()
	for {
		j.mu.Lock()
		reached, err, woken := j.reached, j.result, j.woken
		j.mu.Unlock()
		if reached >= want {
			return err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return fmt.Errorf("journal of responses: %w", ctx.Err())
		}
	}
}

func (j *journal) run() {
	defer close(j.done)
	for {
		<-j.work
		j.mu.Lock()
		b, asked, closed, lost := j.pending, j.asked, j.closed, j.lost
		j.pending, j.lost = nil, false
		j.mu.Unlock()
		err := j.write(b, lost)
		j.mu.Lock()
		j.reached, j.result = asked, err
		close(j.woken)
		j.woken = make(chan struct{})
		j.mu.Unlock()
		if closed {
			if j.f != nil {
				if err := j.f.Close(); err != nil {
					j.log.Warn("closing the journal of responses", "file", j.file, "err", err)
				}
			}
			return
		}
	}
}

func (j *journal) close() {
	if j == nil {
		return
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.wake()
	<-j.done
}

// write appends b, or writes the file anew where that is due.
func (j *journal) write(b []byte, anew bool) error {
	disk := j.disk()
	if disk.Err != nil {
		return j.failed(disk.Err)
	}
	if j.broken != nil && disk.Recoveries == j.seen && time.Now().Before(j.retry) {
		return j.state()
	}
	if anew || j.f == nil || disk.Recoveries != j.seen || j.size+int64(len(b)) > max(rewriteFrom, 2*j.compact) {
		j.seen = disk.Recoveries
		// All that is pending has happened to it; what happens from now on comes after it.
		return j.failed(j.rewrite())
	}
	n, err := j.f.Write(b)
	j.size += int64(n)
	return j.failed(err)
}

// failed ends the use of the file after err.
func (j *journal) failed(err error) error {
	if err == nil {
		if j.broken != nil {
			j.log.Info("the journal of responses is written again", "file", j.file)
		}
		j.broken, j.removed = nil, false
		return nil
	}
	if j.f != nil {
		err = errors.Join(err, j.f.Close())
		j.f = nil
	}
	// Without it a restart finds nothing, and so nothing that was purged. That there is
	// none now may mean that its disk is away.
	j.removed = j.removed || os.Remove(j.file) == nil
	if j.broken == nil {
		j.log.Error("the journal of responses can't be written: a restart doesn't find them", "file", j.file, "removed", j.removed, "err", err)
	}
	j.broken, j.retry = err, time.Now().Add(journalRetry)
	return j.state()
}

// state is why a restart may find what is gone.
func (j *journal) state() error {
	if j.removed {
		return nil
	}
	return j.broken
}

// rewrite replaces the file by one of what is stored now.
func (j *journal) rewrite() (err error) {
	f, err := os.OpenFile(j.file+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 256<<10)
	n, _ := w.WriteString(journalMagic) // its error comes again
	size := int64(n)
	var b []byte
	j.all(func(uri string, s *response) {
		b = appendEntry(b[:0], func(b []byte) []byte { return appendResponse(append(b, opPut), uri, s) })
		n, _ := w.Write(b)
		size += int64(n)
	})
	if err = w.Flush(); err == nil {
		err = os.Rename(j.file+".tmp", j.file)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if j.f != nil {
		err = j.f.Close()
	}
	j.f, j.size, j.compact = f, size, size
	return err
}

// appendEntry appends what payload appends, with its length and checksum before it.
func appendEntry(b []byte, payload func([]byte) []byte) []byte {
	at := len(b)
	b = payload(append(b, 0, 0, 0, 0, 0, 0, 0, 0))
	p := b[at+8:]
	if len(p) > maxEntry {
		return b[:at]
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(p)))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(p, castagnoli))
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendFields(b []byte, h http.Header) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	for name, lines := range h {
		b = appendTexts(appendText(b, name), lines)
	}
	return b
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

const (
	flagExplicit = 1 << iota
	flagNoCache
	flagMustRevalidate
	flagProxyRevalidate
	flagPart
)

func appendResponse(b []byte, uri string, s *response) []byte {
	flags := uint64(0)
	for flag, set := range map[uint64]bool{flagExplicit: s.explicit, flagNoCache: s.noCache, flagMustRevalidate: s.mustRevalidate,
		flagProxyRevalidate: s.proxyRevalidate, flagPart: s.part != nil} {
		if set {
			flags |= flag
		}
	}
	b = appendText(appendText(b, uri), s.id)
	b = binary.AppendUvarint(b, flags)
	for _, n := range []int64{int64(s.status), s.size, s.answered.UnixNano(), int64(s.lifetime), int64(s.initialAge), int64(s.sMaxAge), int64(s.staleWhileRevalidate), int64(s.staleIfError)} {
		b = binary.AppendVarint(b, n)
	}
	if s.part != nil {
		for _, n := range []int64{s.part.span.Start, s.part.span.Length, s.part.total} {
			b = binary.AppendVarint(b, n)
		}
	}
	return appendFields(appendFields(appendTexts(appendTexts(b, s.vary), s.keys), s.header), s.request)
}

// decoder reads what append… wrote; bad once it couldn't.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) count() uint64 { return integer(d, binary.Uvarint) }
func (d *decoder) number() int64 { return integer(d, binary.Varint) }

func integer[T int64 | uint64](d *decoder, read func([]byte) (T, int)) T {
	n, k := read(d.b)
	if k <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) text() string {
	n := d.count()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) fields() http.Header {
	h := http.Header{}
	for range min(d.count(), uint64(len(d.b))) {
		name := d.text()
		h[name] = d.texts()
	}
	return h
}

func (d *decoder) texts() []string {
	var list []string
	for range min(d.count(), uint64(len(d.b))) {
		list = append(list, d.text())
	}
	return list
}

func (d *decoder) response() (uri string, s *response, ok bool) {
	s = &response{freshness: freshness{directives: noDirectives()}}
	uri, s.id = d.text(), d.text()
	flags := d.count()
	status, size, answered := d.number(), d.number(), d.number()
	s.status, s.size, s.answered = int(status), size, time.Unix(0, answered)
	s.lifetime, s.initialAge, s.sMaxAge = time.Duration(d.number()), time.Duration(d.number()), time.Duration(d.number())
	s.staleWhileRevalidate, s.staleIfError = time.Duration(d.number()), time.Duration(d.number())
	s.explicit, s.noCache = flags&flagExplicit != 0, flags&flagNoCache != 0
	s.mustRevalidate, s.proxyRevalidate = flags&flagMustRevalidate != 0, flags&flagProxyRevalidate != 0
	if flags&flagPart != 0 {
		s.part = &part{deliver.Span{Start: d.number(), Length: d.number()}, d.number()}
	}
	s.vary, s.keys = d.texts(), d.texts()
	s.header, s.request = d.fields(), d.fields()
	s.describe()
	whole := s.part == nil || s.part.span.Start >= 0 && s.part.span.Length == s.size && s.part.span.Start <= s.part.total-s.size
	ok = !d.bad && len(d.b) == 0 && uri != "" && s.id != "" && status >= 200 && status < 600 && s.size >= 0 && s.lifetime >= 0 && s.initialAge >= 0 && whole
	return uri, s, ok
}

// rebuilt is the index while a journal is replayed.
type rebuilt struct {
	*index
	uris map[string]string // by a response's id
}

func (r *rebuilt) put(uri string, s, old *response) {
	r.uris[s.id] = uri
	r.index.put(uri, s, old)
}

func (r *rebuilt) goneByID(id string) {
	uri, known := r.uris[id]
	if !known {
		return
	}
	delete(r.uris, id)
	for _, s := range r.of(uri) {
		if s.id == id {
			r.remove(uri, s)
		}
	}
}

// restore puts what the journal of dir has, and the disk the bodies of, into the
// index, and takes other bodies off the disk.
func (p *Proxy) restore(dir string) error {
	r := &rebuilt{p.index, map[string]string{}}
	if err := readJournal(dir, r); err != nil {
		return fmt.Errorf("journal of responses: %w", err)
	}
	dead := map[string]struct{}{}
	for _, key := range p.cfg.Cache.DiskKeys() {
		dead[key] = struct{}{}
	}
	now := p.now()
	found := 0
	p.index.all(func(uri string, s *response) {
		if _, here := dead[s.id]; here && !s.answered.After(now) {
			delete(dead, s.id)
			found++
		} else {
			p.index.remove(uri, s)
		}
	})
	p.index.tidy()
	if len(dead) > 0 {
		if _, err := p.cfg.Cache.Drop(func(key string) bool { _, ok := dead[key]; return ok }); err != nil {
			return fmt.Errorf("bodies of no response: %w", err)
		}
	}
	p.cfg.Log.Info("responses found on disk", "responses", found, "dropped", len(dead))
	return nil
}
