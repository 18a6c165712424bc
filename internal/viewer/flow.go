package viewer

import (
	"bytes"
	"net/netip"
	"strconv"
	"sync"
)

const (
	// maxHead bounds a response's header that is looked at.
	maxHead = 16 << 10
	// aSegment is the least body that counts as a segment's.
	aSegment = 64 << 10
)

// flow follows the HTTP responses on one connection, as far as is needed to
// tell when a body is on its way. A browser sends no request before the last
// response is complete (HTTP/1.1 without pipelining), so what it sends begins a
// new exchange.
type flow struct {
	to netip.Addr

	mu    sync.Mutex
	head  []byte
	body  bool
	total int64 // of the body; 0 when unknown
	got   int64
}

// sent is called when the viewer has sent something.
func (f *flow) sent() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head, f.body, f.total, f.got = nil, false, 0, 0
}

// received is called with what the viewer is given.
func (f *flow) received(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.body {
		f.got += int64(len(b))
		return
	}
	f.head = append(f.head, b[:min(len(b), maxHead-len(f.head))]...)
	end := bytes.Index(f.head, []byte("\r\n\r\n"))
	if end < 0 {
		return
	}
	f.body = true
	for line := range bytes.SplitSeq(f.head[:end], []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err == nil {
				f.total = n
			}
		}
	}
	f.got = int64(len(f.head) - end - 4)
	f.head = nil
}

// midSegment reports whether a large body has begun and more than half of it is
// still to come.
func (f *flow) midSegment() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total >= aSegment && f.got > 0 && f.got < f.total/2
}

// cut reports whether the connection, now ended, ended in a large body.
func (f *flow) cut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total >= aSegment && f.got > 0 && f.got < f.total
}
