package deliver

import (
	"net/http"
	"strings"
	"time"
)

type verdict int

const (
	proceed verdict = iota
	notModified
	failed
)

// precondition evaluates a GET or HEAD's conditions in the order of RFC 9110
// section 13.2.2. etag is quoted; modified is zero when it isn't known: If-Modified-Since
// is then about when it was made (RFC 9111 section 4.3.2), where that is.
func precondition(h http.Header, etag string, modified, made time.Time) verdict {
	if im := h.Values("If-Match"); len(im) > 0 {
		if !anyTag(im, etag, false) {
			return failed
		}
	} else if t, ok := date(h.Get("If-Unmodified-Since")); ok && !modified.IsZero() && modified.Truncate(time.Second).After(t) {
		return failed
	}
	if inm := h.Values("If-None-Match"); len(inm) > 0 {
		if anyTag(inm, etag, true) {
			return notModified
		}
		return proceed
	}
	if modified.IsZero() {
		modified = made
	}
	if t, ok := date(h.Get("If-Modified-Since")); ok && !modified.IsZero() && !modified.Truncate(time.Second).After(t) {
		return notModified
	}
	return proceed
}

// rangeAllowed evaluates If-Range (RFC 9110 section 13.1.5): a strong match of
// the tag, or exactly our date, if that is strong: what changed within a second of
// its Date may have changed again (section 8.8.2.2).
func rangeAllowed(h http.Header, etag string, modified, made time.Time) bool {
	v := strings.Trim(h.Get("If-Range"), " \t")
	if v == "" {
		return true
	}
	if strings.HasPrefix(v, `"`) || strings.HasPrefix(v, "W/") {
		return v == etag && etag[0] == '"'
	}
	t, ok := date(v)
	return ok && !modified.IsZero() && modified.Truncate(time.Second).Equal(t) && (made.IsZero() || made.Sub(t) >= time.Second)
}

func date(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	return t, err == nil
}

// anyTag reports whether a list of entity tags, or "*", matches etag. A list
// with a syntax error counts up to it.
func anyTag(fields []string, etag string, weak bool) bool {
	for _, list := range fields {
		for {
			list = strings.TrimLeft(list, " \t,")
			if list == "" {
				break
			}
			if list == "*" {
				return true
			}
			tag, rest, ok := cutTag(list)
			if !ok {
				break
			}
			if weak {
				if strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(etag, "W/") {
					return true
				}
			} else if tag == etag && tag[0] == '"' {
				return true
			}
			list = rest
		}
	}
	return false
}

// cutTag takes the first entity tag off s.
func cutTag(s string) (tag, rest string, ok bool) {
	start := 0
	if strings.HasPrefix(s, "W/") {
		start = 2
	}
	if len(s) <= start || s[start] != '"' {
		return "", "", false
	}
	for i := start + 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[:i+1], s[i+1:], true
		case c == 0x21 || c >= 0x23 && c <= 0x7e || c >= 0x80:
		default:
			return "", "", false
		}
	}
	return "", "", false
}
