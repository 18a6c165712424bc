package httpcache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// block is what ranges are widened to when they are asked of the origin: those
// near them are hits then.
const block = 256 << 10

// part is where a stored part lies in its representation.
type part struct {
	span  deliver.Span
	total int64
}

func (p *part) end() int64 { return p.span.Start + p.span.Length }

func (p *part) covers(s deliver.Span) bool {
	return s.Start >= p.span.Start && s.Start+s.Length <= p.end()
}

// partOf reads a 206's Content-Range (RFC 9110 section 14.4); nil when it isn't
// one part of a representation of known length.
func partOf(res *http.Response) *part {
	v := res.Header["Content-Range"]
	if res.StatusCode != http.StatusPartialContent || len(v) != 1 {
		return nil
	}
	rng, total, ok := strings.Cut(strings.TrimPrefix(v[0], "bytes "), "/")
	first, last, ok2 := strings.Cut(rng, "-")
	if !ok || !ok2 || !strings.HasPrefix(v[0], "bytes ") {
		return nil
	}
	a, err1 := strconv.ParseInt(first, 10, 63)
	b, err2 := strconv.ParseInt(last, 10, 63)
	n, err3 := strconv.ParseInt(total, 10, 63)
	if errors.Join(err1, err2, err3) != nil || a < 0 || b < a || b >= n || res.ContentLength >= 0 && res.ContentLength != b-a+1 {
		return nil
	}
	return &part{deliver.Span{Start: a, Length: b - a + 1}, n}
}

// widened is the range to ask the origin for: "bytes=first-last" to whole blocks,
// everything else as it is; false when it is more than may be kept.
func widened(spec string, limit int64) (string, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(spec, "bytes="), "-")
	if !ok || !strings.HasPrefix(spec, "bytes=") || strings.Contains(last, ",") {
		return "", false
	}
	a, err1 := strconv.ParseInt(first, 10, 62)
	b, err2 := strconv.ParseInt(last, 10, 62)
	switch {
	case first == "" && err2 == nil:
		return spec, b <= limit
	case last == "" && err1 == nil:
		return spec, true // what it is only the answer's length tells
	case err1 != nil || err2 != nil || b < a:
		return "", false
	}
	wa, wb := a/block*block, b/block*block+block-1
	if wb-wa+1 > limit {
		return spec, b-a+1 <= limit
	}
	return "bytes=" + strconv.FormatInt(wa, 10) + "-" + strconv.FormatInt(wb, 10), true
}

// servePart answers a range from a stored part; false: none has it.
func (x *exchange) servePart() bool {
	p := x.p
	if x.r.Method != http.MethodGet || x.r.Header["Range"] == nil || x.conditional() {
		return false
	}
	spec := strings.Join(x.r.Header["Range"], ",")
	for _, s := range p.index.parts(x.uri, x.r.Header) {
		spans, err := deliver.ParseRange(spec, s.part.total)
		if tag := x.r.Header.Get("If-Range"); tag != "" && tag != s.etag {
			continue
		}
		age := s.age(p.now())
		if err == nil && len(spans) == 1 && s.part.covers(spans[0]) && s.decide(x.rd, age) == useFresh &&
			x.serveStored(s, "hit", "hit; ttl="+seconds(s.lifetime-age)+"; detail=part") {
			return true
		}
	}
	return false
}

// conditional reports whether a range has a condition that only the origin can decide
// without the whole.
func (x *exchange) conditional() bool {
	return slices.ContainsFunc(conditions, func(name string) bool {
		v := x.r.Header[name]
		return v != nil && name != "Range" && !(name == "If-Range" && strings.HasPrefix(v[0], `"`))
	})
}

// getRange has the origin asked for a range of what isn't here; false: look again.
func (x *exchange) getRange(reason string, turn int) bool {
	p := x.p
	spec := strings.Join(x.r.Header["Range"], ",")
	rng, ok := widened(spec, p.cfg.MaxObject)
	if !ok || x.conditional() || x.r.Header["If-Range"] != nil || x.r.Header["Authorization"] != nil || x.rd.noCache || turn >= maxTurns {
		x.forward(reason, nil)
		return true
	}
	return x.join(rng, nil, true, reason)
}

// deliverPart answers a range request from a part that is stored or arrives.
func (x *exchange) deliverPart(s *response, b deliver.Body) {
	h := x.w.Header()
	total := strconv.FormatInt(s.part.total, 10)
	span := s.part.span
	spans, err := deliver.ParseRange(x.r.Header.Get("Range"), s.part.total)
	switch {
	case err != nil:
		h.Set("Content-Range", "bytes */"+total)
		x.refuse(http.StatusRequestedRangeNotSatisfiable)
		return
	case len(spans) == 1 && s.part.covers(spans[0]):
		span = spans[0]
	}
	w := &window{Body: b, from: span.Start - s.part.span.Start}
	if _, err := w.Bytes(x.r.Context(), 0); err != nil {
		panic(http.ErrAbortHandler)
	}
	h.Set("Content-Range", "bytes "+strconv.FormatInt(span.Start, 10)+"-"+strconv.FormatInt(span.Start+span.Length-1, 10)+"/"+total)
	h.Set("Content-Length", strconv.FormatInt(span.Length, 10))
	x.sent.Status = http.StatusPartialContent
	x.w.WriteHeader(http.StatusPartialContent)
	deliver.Copy(x.w, x.r, w, span.Length, &x.sent)
}

// window is a body from an offset on.
type window struct {
	deliver.Body
	from int64
}

// Bytes implements deliver.Body.
func (w *window) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	return w.Body.Bytes(ctx, w.from+offset)
}

// combine joins a part with the stored ones it touches (RFC 9111 section 3.4),
// which needs a strong validator. Parts that make up the whole become a response
// for everyone.
func (p *Proxy) combine(uri string, s *response, body []byte) (*response, []byte) {
	if !strings.HasPrefix(s.etag, `"`) {
		return s.whole(), body
	}
	parts := slices.DeleteFunc(p.index.parts(uri, s.request), func(o *response) bool {
		return o.etag != s.etag || o.part.total != s.part.total || !slices.Equal(o.vary, s.vary)
	})
	for grown := true; grown; {
		grown = false
		for i, o := range parts {
			start, end := min(o.part.span.Start, s.part.span.Start), max(o.part.end(), s.part.end())
			apart := o.part.span.Start > s.part.end() || s.part.span.Start > o.part.end()
			if apart || end-start > p.cfg.MaxObject || s.part.covers(o.part.span) {
				continue
			}
			ctx, cancel := context.WithTimeout(p.ctx, p.cfg.HeaderTimeout)
			older, err := p.bytes(ctx, o)
			cancel()
			if err != nil {
				continue
			}
			joined := make([]byte, end-start)
			copy(joined[o.part.span.Start-start:], older)
			copy(joined[s.part.span.Start-start:], body)
			c := *s
			s, body = &c, joined
			s.part, s.size = &part{deliver.Span{Start: start, Length: end - start}, s.part.total}, end-start
			parts, grown = slices.Delete(parts, i, i+1), true
			break
		}
	}
	return s.whole(), body
}

// whole is s as a whole response when its part is everything.
func (s *response) whole() *response {
	if s.part == nil || s.part.span.Length != s.part.total {
		return s
	}
	c := *s
	c.part, c.status = nil, http.StatusOK
	return &c
}

// bytes returns a stored response's body.
func (p *Proxy) bytes(ctx context.Context, s *response) ([]byte, error) {
	o, _, err := p.stored(ctx, nil, s)
	if err != nil {
		return nil, err
	}
	defer o.Release()
	b, err := o.All(ctx)
	if err == nil && int64(len(b)) != s.size {
		err = errCut
	}
	return b, err
}
