package httpcache

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// response is a stored response. It doesn't change once others see it: a newer
// one takes its place.
type response struct {
	freshness
	status int
	// header holds the end-to-end fields without Age, as every client gets them.
	header http.Header
	// vary are the names Vary lists, request the fields of the request it answered
	// that have them.
	vary    []string
	request http.Header
	// answered is when the origin's head had come.
	answered time.Time
	etag     string
	modified time.Time
	keys     []string // Surrogate-Key
	id       string   // of the body, in the cache
	size     int64    // of the body; -1 until it is known
	part     *part    // nil for a whole representation
}

// newResponse makes a response of what the origin said.
func newResponse(r *http.Request, status int, h http.Header, f freshness, answered time.Time) *response {
	s := &response{freshness: f, status: status, header: endToEnd(h), answered: answered}
	for name := range f.withheld(h) {
		delete(s.header, name)
	}
	s.header.Del("Age")
	if s.header.Get("Date") == "" {
		s.header.Set("Date", answered.UTC().Format(http.TimeFormat)) // RFC 9110 section 6.6.1
	}
	// Not of what is left of the fields.
	s.vary = varyNames(h)
	s.keys = strings.Fields(strings.Join(h["Surrogate-Key"], " "))
	s.request = http.Header{}
	for _, name := range s.vary {
		if v, ok := r.Header[name]; ok {
			s.request[name] = slices.Clone(v)
		}
	}
	s.describe()
	return s
}

// withheld are those of a response's fields that aren't stored with the rest, as the
// qualified forms of no-cache and private ask (sections 5.2.2.4 and 5.2.2.7): only who
// the response was made for gets them.
func (f *freshness) withheld(h http.Header) http.Header {
	out := http.Header{}
	if len(f.privateFields)+len(f.noCacheFields) == 0 {
		return out
	}
	h = endToEnd(h)
	for _, name := range slices.Concat(f.privateFields, f.noCacheFields) {
		if v, ok := h[name]; ok {
			out[name] = v
		}
	}
	return out
}

// describe notes the validators.
func (s *response) describe() {
	s.etag = s.header.Get("Etag")
	s.modified, _ = httpDate(s.header, "Last-Modified")
}

// age is current_age (section 4.2.3).
func (s *response) age(now time.Time) time.Duration {
	return s.initialAge + max(0, now.Sub(s.answered))
}

// date is when the origin made it; zero where that isn't known.
func (s *response) date() time.Time {
	t, _ := httpDate(s.header, "Date")
	return t
}

// matches reports whether the response answers a request with these fields
// (section 4.1).
func (s *response) matches(h http.Header) bool {
	for _, name := range s.vary {
		if normalized(name, h[name]) != normalized(name, s.request[name]) {
			return false
		}
	}
	return true
}

// normalized joins a field's lines and takes out white space around commas, and what
// has no meaning in fields of content negotiation: case, and the order of codings.
func normalized(name string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	parts := strings.Split(strings.Join(lines, ","), ",")
	for i, p := range parts {
		parts[i] = strings.Trim(p, " \t")
	}
	switch name {
	case "Accept-Encoding":
		slices.Sort(parts)
		fallthrough
	case "Accept-Language", "Accept-Charset":
		return strings.ToLower(strings.Join(parts, ","))
	}
	return strings.Join(parts, ",")
}

func varyNames(h http.Header) []string {
	var out []string
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t")); name != "" && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// varies reports whether Vary lists the name.
func varies(h http.Header, name string) bool { return slices.Contains(varyNames(h), name) }

// hopByHop are the fields that concern one connection (RFC 9110 section 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// endToEnd returns a copy of the fields without those of the connection.
func endToEnd(h http.Header) http.Header {
	out := h.Clone()
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				out.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(out, name)
	}
	return out
}

// describesBody are the fields a 304 or HEAD doesn't change, because they
// belong to the stored body (section 3.2).
var describesBody = []string{"Content-Encoding", "Content-Range", "Content-Length", "Etag"}

// updated is the response with the fields of a 304, or of a HEAD's 200, laid over
// its own (section 3.2); nil when those speak of another representation.
func (s *response) updated(r *http.Request, h http.Header, asked, answered time.Time, heuristics bool) *response {
	if tag := h.Get("Etag"); tag != "" && strings.TrimPrefix(tag, "W/") != strings.TrimPrefix(s.etag, "W/") {
		return nil
	}
	if lm := h.Get("Last-Modified"); lm != "" && h.Get("Etag") == "" && lm != s.header.Get("Last-Modified") {
		return nil
	}
	merged := s.header.Clone()
	for name, v := range endToEnd(h) {
		if !slices.Contains(describesBody, name) {
			merged[name] = v
		}
	}
	if h.Get("Date") == "" {
		merged.Del("Date")
	}
	n := newResponse(r, s.status, merged, freshness{}, answered)
	// The age is of the new head.
	aged := merged
	aged.Del("Age")
	if v := h.Get("Age"); v != "" {
		aged.Set("Age", v)
	}
	n.freshness = assess(s.status, aged, asked, answered, heuristics)
	for name := range n.withheld(n.header) {
		delete(n.header, name)
	}
	if h["Vary"] == nil {
		n.vary, n.request = s.vary, s.request
	}
	if h["Surrogate-Key"] == nil {
		n.keys = s.keys
	}
	n.id, n.size = s.id, s.size
	return n
}

// cost is about what the response takes in the index.
func (s *response) cost() int64 {
	n := int64(512)
	for _, h := range []http.Header{s.header, s.request} {
		for name, vs := range h {
			n += 64 + int64(len(name))
			for _, v := range vs {
				n += 16 + int64(len(v))
			}
		}
	}
	return n
}

func seconds(d time.Duration) string {
	if d < 0 {
		return "-" + strconv.FormatInt(int64((-d+time.Second-1)/time.Second), 10)
	}
	return strconv.FormatInt(int64(d/time.Second), 10)
}
