package httpcache

import (
	"net/http"
	"strings"
	"time"
)

// directives are those of a Cache-Control field (RFC 9111 section 5.2) that
// matter to a shared cache. Durations are -1 when absent.
type directives struct {
	maxAge, sMaxAge      time.Duration
	staleWhileRevalidate time.Duration // RFC 5861 section 3
	staleIfError         time.Duration // RFC 5861 section 4
	maxStale, minFresh   time.Duration // of requests
	noStore, noCache     bool
	private, public      bool
	mustRevalidate       bool
	proxyRevalidate      bool
	mustUnderstand       bool
	onlyIfCached         bool
	noTransform          bool
	// noCacheFields and privateFields are the field names of the qualified forms.
	noCacheFields, privateFields []string
}

// maxDelta is the greatest number of seconds (RFC 9111 section 1.2.2).
const maxDelta = 1<<31 - 1

// anyStale is max-stale without a value.
const anyStale = time.Duration(maxDelta) * time.Second

func noDirectives() directives {
	return directives{maxAge: -1, sMaxAge: -1, staleWhileRevalidate: -1, staleIfError: -1, maxStale: -1, minFresh: -1}
}

// parseCacheControl reads a Cache-Control field. Of directives given twice the
// stricter counts, and a lifetime that can't be read is none at all (section
// 4.2.1 encourages caches to take such responses for stale).
func parseCacheControl(fields []string) directives {
	d := noDirectives()
	for _, f := range fields {
		for name, value := range eachDirective(f) {
			d.set(name, value)
		}
	}
	return d
}

func (d *directives) set(name, value string) {
	least := func(to *time.Duration) {
		v := deltaSeconds(value)
		if v < 0 {
			v = 0
		}
		if *to < 0 || v < *to {
			*to = v
		}
	}
	switch name {
	case "max-age":
		least(&d.maxAge)
	case "s-maxage":
		least(&d.sMaxAge)
	case "stale-while-revalidate":
		least(&d.staleWhileRevalidate)
	case "stale-if-error":
		least(&d.staleIfError)
	case "min-fresh":
		if v := deltaSeconds(value); v >= 0 {
			d.minFresh = max(d.minFresh, v)
		}
	case "max-stale":
		if value == "" {
			d.maxStale = anyStale
		} else {
			least(&d.maxStale)
		}
	case "no-store":
		d.noStore = true
	case "no-cache":
		if names := fieldNames(value); len(names) > 0 {
			d.noCacheFields = append(d.noCacheFields, names...)
		} else {
			d.noCache = true
		}
	case "private":
		if names := fieldNames(value); len(names) > 0 {
			d.privateFields = append(d.privateFields, names...)
		} else {
			d.private = true
		}
	case "public":
		d.public = true
	case "must-revalidate":
		d.mustRevalidate = true
	case "proxy-revalidate":
		d.proxyRevalidate = true
	case "must-understand":
		d.mustUnderstand = true
	case "only-if-cached":
		d.onlyIfCached = true
	case "no-transform":
		d.noTransform = true
	}
}

// eachDirective yields a list's directives: names in lower case, values without
// quotes. A quoted string may hold commas (RFC 9110 section 5.6.4).
func eachDirective(s string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for s != "" {
			s = strings.TrimLeft(s, " \t,")
			if s == "" {
				return
			}
			end := strings.IndexAny(s, "=,")
			if end < 0 {
				yield(strings.ToLower(strings.TrimRight(s, " \t")), "")
				return
			}
			name := strings.ToLower(strings.TrimRight(s[:end], " \t"))
			if s[end] == ',' {
				if s = s[end:]; !yield(name, "") {
					return
				}
				continue
			}
			spaced := len(name) != end // "max-age =1": not the grammar, so not a value
			s = s[end+1:]
			var value string
			if strings.HasPrefix(s, `"`) {
				value, s = unquote(s)
				if i := strings.IndexByte(s, ','); i >= 0 {
					s = s[i:]
				} else {
					s = ""
				}
			} else {
				i := strings.IndexByte(s, ',')
				if i < 0 {
					i = len(s)
				}
				value, s = strings.TrimRight(s[:i], " \t"), s[i:]
			}
			if spaced {
				value = "invalid"
			}
			if !yield(name, value) {
				return
			}
		}
	}
}

// unquote takes the quoted string s begins with; one that doesn't end goes on to
// the end of the field.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// deltaSeconds reads 1*DIGIT; -1 for anything else. Larger than maxDelta is maxDelta.
func deltaSeconds(s string) time.Duration {
	if s == "" {
		return -1
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return -1
		}
		if n = n*10 + int64(c-'0'); n > maxDelta {
			n = maxDelta
		}
	}
	return time.Duration(n) * time.Second
}

func fieldNames(list string) []string {
	var out []string
	for f := range strings.SplitSeq(list, ",") {
		if f = strings.Trim(f, " \t"); f != "" {
			out = append(out, http.CanonicalHeaderKey(f))
		}
	}
	return out
}

// requestDirectives reads a request's Cache-Control, and Pragma where there is
// none (RFC 9111 section 5.4).
func requestDirectives(h http.Header) directives {
	d := parseCacheControl(h["Cache-Control"])
	if len(h["Cache-Control"]) == 0 {
		for _, f := range h["Pragma"] {
			for name := range eachDirective(f) {
				d.noCache = d.noCache || name == "no-cache"
			}
		}
	}
	return d
}

// targeted is the field that speaks to this cache before Cache-Control does
// (RFC 9213).
const targeted = "Cdn-Cache-Control"

// responseDirectives reads a response's directives; byTarget when they are of the
// targeted field, which then stands alone: Expires doesn't count either.
func responseDirectives(h http.Header) (d directives, byTarget bool) {
	if fields := h[targeted]; len(fields) > 0 {
		if d, ok := parseTargeted(strings.Join(fields, ",")); ok {
			return d, true
		}
	}
	return parseCacheControl(h["Cache-Control"]), false
}

// httpDate reads a field that holds one date; false when it is absent or invalid.
func httpDate(h http.Header, name string) (time.Time, bool) {
	v := h[name]
	if len(v) == 0 {
		return time.Time{}, false
	}
	t, err := http.ParseTime(v[0])
	return t, err == nil
}

// ageOf reads Age (RFC 9111 section 5.1): the first member counts; zero when it
// isn't a number of seconds.
func ageOf(h http.Header) time.Duration {
	first, _, _ := strings.Cut(h.Get("Age"), ",")
	return max(0, deltaSeconds(strings.Trim(first, " \t")))
}
