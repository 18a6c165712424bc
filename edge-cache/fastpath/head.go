package fastpath

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// maxFields bounds the header fields of a request the fast path answers.
const maxFields = 32

// Field is one header field as it came.
type Field struct{ Name, Value []byte }

// Request is a plain GET or HEAD: one Host, no body, nothing that ends or changes
// the connection. Its bytes are the connection's and valid only during the call.
type Request struct {
	// Target is path and query, undecoded: only characters that URIs may hold.
	Target []byte
	// Fields holds all header fields but Host and "Connection: keep-alive".
	Fields []Field
	Host   []byte
	// Head: it is a HEAD.
	Head bool
	// Files: the body of an answer may be Stored.
	Files bool
	// Select has the fields that ask for another answer than the whole object, with
	// their canonical names: Range and conditions; nil without.
	Select http.Header

	store [maxFields]Field
}

type verdict int

const (
	// incomplete: the head hasn't ended yet.
	incomplete verdict = iota
	// plain: a request the fast path may answer.
	plain
	// bodiless: a request for net/http that ends with its head.
	bodiless
	// other: everything else.
	other
)

var headEnd = []byte("\r\n\r\n")

// parse reads the first request head of b and returns its length.
func parse(b []byte, r *Request) (n int, v verdict) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return 0, incomplete
	}
	n = end + len(headEnd)
	line, rest := cutLine(b[:end+2])
	v = plain
	method, after, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return n, other
	}
	target, proto, ok := bytes.Cut(after, []byte{' '})
	if !ok || string(proto) != "HTTP/1.1" || !validTarget(target) {
		return n, other
	}
	switch string(method) {
	case http.MethodGet, http.MethodHead:
	default:
		return n, other
	}
	r.Target, r.Host, r.Fields, r.Head, r.Select = target, nil, r.store[:0], len(method) == len(http.MethodHead), nil
	hosts := 0
	for len(rest) > 0 {
		line, rest = cutLine(rest)
		name, value, ok := cutField(line)
		if !ok {
			return n, other
		}
		class := classOf(name)
		switch class {
		case classHost:
			if hosts++; hosts > 1 || !validHost(value) {
				return n, other
			}
			r.Host = value
			continue
		case classConnection:
			if !equalFold(value, "keep-alive") {
				return n, other
			}
			continue
		case classFraming:
			return n, other
		}
		if len(r.Fields)+len(r.Select) == maxFields {
			v = bodiless
			continue
		}
		if class == classSelecting {
			r.selects(name, value)
			continue
		}
		r.Fields = append(r.Fields, Field{name, value})
	}
	if hosts != 1 {
		return n, other
	}
	return n, v
}

// Begin makes r a request that came over another version of HTTP; false when it
// isn't plain. What it is given must stay as it is while r is used.
func (r *Request) Begin(target, host []byte, head bool) bool {
	r.Target, r.Host, r.Fields, r.Head, r.Select = target, host, r.store[:0], head, nil
	return validTarget(target) && validHost(host)
}

// Add adds a field, whose name is in lower case; false when r is no longer plain.
func (r *Request) Add(name, value []byte) bool {
	class := classOf(name)
	if len(r.Fields)+len(r.Select) == maxFields || class != classNone && class != classSelecting {
		return false
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	if class == classSelecting {
		r.selects(name, value)
		return true
	}
	r.Fields = append(r.Fields, Field{name, value})
	return true
}

func (r *Request) selects(name, value []byte) {
	if r.Select == nil {
		r.Select = http.Header{}
	}
	r.Select.Add(string(name), string(value))
}

// Selects reports whether another answer than the whole object is wanted.
func (r *Request) Selects() bool { return r.Head || r.Select != nil }

// Selection takes the answer of a handler to a request that selects, as far as it is
// one part of a whole body. It is a deliver.Selector: the body the handler serves is
// Unseen.
type Selection struct {
	header http.Header
	status int
	part   deliver.Span
	other  bool // it isn't
}

// NewSelection returns one, and the request to serve with it.
func (r *Request) NewSelection() (*Selection, *http.Request) {
	req := &http.Request{Method: http.MethodGet, Header: r.Select}
	if r.Head {
		req.Method = http.MethodHead
	}
	return &Selection{header: http.Header{}}, req
}

// Header implements http.ResponseWriter.
func (s *Selection) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *Selection) WriteHeader(status int) { s.status = status }

// Write implements http.ResponseWriter: a body that isn't a part of the whole.
func (s *Selection) Write(b []byte) (int, error) {
	s.other = true
	return len(b), nil
}

// Select implements deliver.Selector.
func (s *Selection) Select(parts ...deliver.Span) { s.part, s.other = parts[0], len(parts) > 1 }

// Answer returns an answer without its body, with the Date given, and which part of
// the whole its body is, which may be empty; false when that is the handler's to answer.
func (s *Selection) Answer(date string) (Answer, deliver.Span, bool) {
	switch s.status {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified:
	default:
		return Answer{}, deliver.Span{}, false
	}
	fields := SortedFields(s.header)
	if s.header["Date"] == nil {
		fields = append(fields, HeadField{Name: "Date", Value: date})
	}
	return Answer{Head: NewHead(s.status, fields)}, s.part, !s.other
}

// Part returns the part of a body of size bytes that one range asks for, with how
// Content-Range names it; false when r selects by anything else, or nothing of it.
func (r *Request) Part(size int64) (part deliver.Span, named string, ok bool) {
	ranges := r.Select["Range"]
	if r.Head || len(r.Select) != 1 || len(ranges) != 1 {
		return deliver.Span{}, "", false
	}
	spans, err := deliver.ParseRange(ranges[0], size)
	if err != nil || len(spans) != 1 {
		return deliver.Span{}, "", false
	}
	return spans[0], spans[0].ContentRange(size), true
}

// Unseen is the body of an object of which only the head is prepared, or a part is
// selected.
type Unseen struct{}

// Bytes implements deliver.Body.
func (Unseen) Bytes(context.Context, int64) ([]byte, error) { return []byte{0}, nil }

// Complete implements deliver.Body.
func (Unseen) Complete() bool { return true }

// Preparer is PrepareHead or PreparePart.
type Preparer func(handler http.HandlerFunc, open func(*HeadField), more ...HeadField) *Head

// PrepareHead returns the head of what a handler answers a HEAD with, which must be
// of a whole object, for many answers. open sees each field and may leave its end to
// the answers' values; more fields follow.
func PrepareHead(handler http.HandlerFunc, open func(*HeadField), more ...HeadField) *Head {
	return prepare(&Request{Head: true}, http.StatusOK, handler, open, more)
}

// PreparePart is PrepareHead for parts of a body that isn't empty. Content-Length and
// Content-Range are open, too.
func PreparePart(handler http.HandlerFunc, open func(*HeadField), more ...HeadField) *Head {
	return prepare(&Request{Select: http.Header{"Range": {"bytes=0-0"}}}, http.StatusPartialContent, handler, func(f *HeadField) {
		if open(f); f.Name == "Content-Length" || f.Name == "Content-Range" {
			f.Value, f.Open = "", true
		}
	}, more)
}

func prepare(req *Request, status int, handler http.HandlerFunc, open func(*HeadField), more []HeadField) *Head {
	w, r := req.NewSelection()
	handler(w, r)
	if w.status != status {
		panic(fmt.Sprintf("a plain request answered with %d, not %d", w.status, status)) // it has no condition
	}
	fields := SortedFields(w.header)
	for i := range fields {
		open(&fields[i])
	}
	return NewHead(w.status, append(fields, more...))
}

// cutLine takes the first line off b, which ends with CRLF.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\r')
	// A bare CR stays in the line, where no grammar allows it.
	for i >= 0 && i+1 < len(b) && b[i+1] != '\n' {
		j := bytes.IndexByte(b[i+1:], '\r')
		if j < 0 {
			return b, nil
		}
		i += 1 + j
	}
	if i < 0 || i+1 >= len(b) {
		return b, nil
	}
	return b[:i], b[i+2:]
}

// cutField splits a field line (RFC 9112 section 5): a token, a colon without
// space before it, and a value of visible characters, spaces and tabs.
func cutField(line []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return nil, nil, false
	}
	name, value = line[:i], bytes.Trim(line[i+1:], " \t")
	for _, c := range name {
		if !tokenByte[c] {
			return nil, nil, false
		}
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, value, true
}

var tokenByte = table("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

// targetByte holds what a path and query may hold unescaped (RFC 3986), without
// the semicolon, which net/url refuses in a query.
var targetByte = table("/?-._~!$&'()*+,=:@0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

func table(chars string) (t [256]bool) {
	for i := range len(chars) {
		t[chars[i]] = true
	}
	return t
}

func validTarget(b []byte) bool {
	if len(b) == 0 || b[0] != '/' {
		return false
	}
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case targetByte[c]:
		case c == '%' && i+2 < len(b) && hexByte(b[i+1]) && hexByte(b[i+2]):
			i += 2
		default:
			return false
		}
	}
	return true
}

func hexByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func validHost(b []byte) bool {
	for _, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']') {
			return false
		}
	}
	return len(b) > 0
}

type class int

const (
	classNone class = iota
	classHost
	classConnection
	// classFraming: fields that change where the request ends, or the connection.
	classFraming
	// classSelecting: fields that ask for another answer than the whole object.
	classSelecting
)

func classOf(name []byte) class {
	switch len(name) {
	case 2:
		if equalFold(name, "te") {
			return classFraming
		}
	case 4:
		if equalFold(name, "host") {
			return classHost
		}
	case 5:
		if equalFold(name, "range") {
			return classSelecting
		}
	case 6:
		if equalFold(name, "expect") {
			return classFraming
		}
	case 7:
		if equalFold(name, "upgrade") || equalFold(name, "trailer") {
			return classFraming
		}
	case 10:
		if equalFold(name, "connection") {
			return classConnection
		}
	}
	switch {
	case hasPrefixFold(name, "if-"):
		return classSelecting
	case hasPrefixFold(name, "content-"), hasPrefixFold(name, "transfer-"), hasPrefixFold(name, "proxy-"), hasPrefixFold(name, "http2-"):
		return classFraming
	}
	return classNone
}

// equalFold compares with a lower-case name, in ASCII.
func equalFold(b []byte, lower string) bool { return len(b) == len(lower) && hasPrefixFold(b, lower) }

func hasPrefixFold(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Is reports whether the field has the name, given in lower case.
func (f Field) Is(lower string) bool { return equalFold(f.Name, lower) }

// HasPrefix reports whether the field's name begins with prefix, given in lower case.
func (f Field) HasPrefix(lower string) bool { return hasPrefixFold(f.Name, lower) }
