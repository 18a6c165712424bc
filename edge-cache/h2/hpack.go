package h2

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2/hpack"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// staticNames are those of the static table (RFC 7541 appendix A) from its 15th
// entry on, the first that is no pseudo-header.
var staticNames = strings.Fields(`accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin
	age allow authorization cache-control content-disposition content-encoding content-language content-length content-location
	content-range content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range
	if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh
	retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate`)

// staticIndex is a name's index; 0 for one that the table hasn't.
var staticIndex = func() map[string]int {
	m := map[string]int{}
	for i, name := range staticNames {
		m[name] = 15 + i
	}
	return m
}()

// staticStatus are the table's entries of ":status".
var staticStatus = map[int]int{200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}

const statusIndex = 8

// commonNames are the fields whose values many responses share: only they are
// worth a place in a connection's table.
var commonNames = strings.Fields(`accept-ranges access-control-allow-headers access-control-allow-methods access-control-allow-origin
	access-control-expose-headers access-control-max-age allow alt-svc cache-control cache-status content-type server
	strict-transport-security timing-allow-origin vary via x-content-type-options`)

// maxCommon bounds how many fields, with their values, a server knows as common.
const maxCommon = 64

type commonKey struct{ name, value string }

// interned are the common fields a server has seen, numbered.
type interned struct {
	mu  sync.Mutex
	ids atomic.Pointer[map[commonKey]int] // never changed
}

// of returns a common field's number.
func (t *interned) of(name, value string) (int, bool) {
	k := commonKey{name, value}
	if id, ok := (*t.ids.Load())[k]; ok {
		return id, true
	}
	if len(value) > 256 || !slices.Contains(commonNames, name) {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.ids.Load()
	if id, ok := old[k]; ok || len(old) == maxCommon {
		return id, ok
	}
	ids := make(map[commonKey]int, len(old)+1)
	for k, id := range old {
		ids[k] = id
	}
	id := len(old)
	ids[k] = id
	t.ids.Store(&ids)
	return id, true
}

// encoder writes header blocks (RFC 7541). Common fields enter the connection's
// table while there is room, and stay: nothing is ever evicted, so where an entry
// is follows from when it came.
type encoder struct {
	max, size int
	count     int            // of entries
	at        [maxCommon]int // which entry a common field is, from 1; 0: it is none
	resized   bool           // which the next block tells the client
}

// resize obeys the client's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) resize(n uint32) {
	if size := int(min(n, tableSize)); size != e.max {
		*e = encoder{max: size, resized: true}
	}
}

// begin writes what comes first in a block.
func (e *encoder) begin(b []byte, status int) []byte {
	if e.resized {
		e.resized = false
		b = appendInt(b, 0x20, 5, 0) // forget all
		b = appendInt(b, 0x20, 5, e.max)
	}
	if i, ok := staticStatus[status]; ok {
		return append(b, 0x80|byte(i))
	}
	b = appendInt(b, 0, 4, statusIndex)
	return append(b, 3, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10))
}

// common writes a common field.
func (e *encoder) common(b []byte, id, size int, literal []byte) []byte {
	if i := e.at[id]; i > 0 {
		return appendInt(b, 0x80, 7, 61+e.count-i+1)
	}
	if e.size+size > e.max {
		// The same without a place in the table: the name's index is below 63.
		return append(appendInt(b, 0, 4, int(literal[0]&0x3f)), literal[1:]...)
	}
	e.size += size
	e.count++
	e.at[id] = e.count
	return append(b, literal...)
}

// field writes a field that wasn't prepared. The name is in lower case.
func (e *encoder) field(b []byte, t *interned, name, value string) []byte {
	if id, ok := t.of(name, value); ok {
		return e.common(b, id, entrySize(name, value), appendLiteral(nil, 0x40, 6, name, value))
	}
	return appendLiteral(b, 0, 4, name, value)
}

// prepared writes a prepared head's fields.
func (e *encoder) prepared(b []byte, p *block, values *fastpath.Values) []byte {
	open := 0
	for i := range p.items {
		switch it := &p.items[i]; {
		case it.common:
			b = e.common(b, it.id, it.size, it.literal)
		case it.open:
			var scratch [64]byte
			v := values[open].Append(append(scratch[:0], it.prefix...))
			open++
			b = append(b, it.literal...)
			b = appendInt(b, 0, 7, len(v))
			b = append(b, v...)
		default:
			b = append(b, it.literal...)
		}
	}
	return b
}

// block is what HTTP/2 makes of a prepared head, for one server.
type block struct {
	of    *Server
	items []item
}

// item is a common field, one whose value is open, or any number of others.
type item struct {
	common  bool
	id      int
	size    int    // of the table's entry
	open    bool   // literal ends with the name
	prefix  string // of the value
	literal []byte
}

// block returns what was prepared of a head.
func (s *Server) block(h *fastpath.Head) *block {
	if p, ok := h.Memo.Load().(*block); ok && p.of == s {
		return p
	}
	p := &block{of: s}
	var rest []byte
	flush := func() {
		if len(rest) > 0 {
			p.items = append(p.items, item{literal: rest})
			rest = nil
		}
	}
	for _, f := range h.Fields {
		name := strings.ToLower(f.Name)
		if aboutConnection(name) && !f.Open {
			continue
		}
		if f.Open {
			flush()
			p.items = append(p.items, item{open: true, prefix: f.Value, literal: appendName(nil, 0, 4, name)})
			continue
		}
		if id, ok := s.common.of(name, f.Value); ok {
			flush()
			p.items = append(p.items, item{common: true, id: id, size: entrySize(name, f.Value), literal: appendLiteral(nil, 0x40, 6, name, f.Value)})
			continue
		}
		rest = appendLiteral(rest, 0, 4, name, f.Value)
	}
	flush()
	h.Memo.Store(p)
	return p
}

// aboutConnection reports whether a field is about connections of HTTP/1.1 (RFC
// 9113 section 8.2.2).
func aboutConnection(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// entrySize is what a field takes of a table (RFC 7541 section 4.1).
func entrySize(name, value string) int { return len(name) + len(value) + 32 }

// appendLiteral writes a field as a literal (RFC 7541 section 6.2) whose
// representation begins with mark and has its index in that many bits.
func appendLiteral(b []byte, mark byte, bits int, name, value string) []byte {
	return appendString(appendName(b, mark, bits, name), value)
}

func appendName(b []byte, mark byte, bits int, name string) []byte {
	i := staticIndex[name]
	b = appendInt(b, mark, bits, i)
	if i == 0 {
		b = appendString(b, name)
	}
	return b
}

// appendString writes a string (RFC 7541 section 5.2), compressed where that is shorter.
func appendString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		return hpack.AppendHuffmanString(appendInt(b, 0x80, 7, int(n)), s)
	}
	return append(appendInt(b, 0, 7, len(s)), s...)
}

// appendInt writes an integer (RFC 7541 section 5.1) behind mark.
func appendInt(b []byte, mark byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, mark|byte(n))
	}
	b = append(b, mark|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
