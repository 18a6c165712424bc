package httpcache

import (
	"net/http"
	"slices"
	"time"
)

// heuristicStatus are the codes a cache may give a freshness of its own (RFC 9110
// section 15.1); the cache understands them, so that it may store them.
var heuristicStatus = []int{200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}

// understood are the further codes whose caching requirements are followed.
var understood = []int{302, 303, 307, 400, 401, 403, 500, 502, 503, 504}

// freshness is how long a response may be reused, and on what terms.
type freshness struct {
	directives
	// lifetime after which it is stale (section 4.2.1), explicit when the origin
	// gave one.
	lifetime time.Duration
	explicit bool
	// initialAge is corrected_initial_age (section 4.2.3).
	initialAge time.Duration
}

// assess reads a response's terms. heuristics allows a tenth of the time since
// Last-Modified where the origin gave no lifetime (section 4.2.2).
func assess(status int, h http.Header, asked, answered time.Time, heuristics bool) freshness {
	d, byTarget := responseDirectives(h)
	f := freshness{directives: d}
	date, dated := httpDate(h, "Date")
	if !dated {
		date = answered
	}
	switch {
	case d.sMaxAge >= 0:
		f.lifetime, f.explicit = d.sMaxAge, true
	case d.maxAge >= 0:
		f.lifetime, f.explicit = d.maxAge, true
	case !byTarget && len(h["Expires"]) > 0:
		f.explicit = true // an invalid date is one in the past (section 5.3)
		if t, ok := httpDate(h, "Expires"); ok {
			f.lifetime = max(0, t.Sub(date))
		}
	case heuristics && !d.noCache && (slices.Contains(heuristicStatus, status) || d.public):
		if t, ok := httpDate(h, "Last-Modified"); ok {
			f.lifetime = min(max(0, date.Sub(t)/10), 24*time.Hour)
		}
	}
	apparent := max(0, answered.Truncate(time.Second).Sub(date)) // Date has whole seconds
	f.initialAge = max(apparent, ageOf(h)+answered.Sub(asked))
	return f
}

// storable reports whether a shared cache may store the response (section 3).
func storable(r *http.Request, rd directives, status int, h http.Header, f freshness) bool {
	switch {
	case r.Method != http.MethodGet, rd.noStore, status < 200:
		return false
	case status == http.StatusPartialContent, status == http.StatusNotModified, status == http.StatusPreconditionFailed, status == http.StatusRequestedRangeNotSatisfiable:
		return false // it speaks of this request's range or conditions
	}
	known := slices.Contains(heuristicStatus, status) || slices.Contains(understood, status)
	switch {
	case f.mustUnderstand && !known:
		return false
	case f.noStore && !f.mustUnderstand, f.private:
		return false
	case varies(h, "*"):
		return false
	case r.Header["Authorization"] != nil && !f.public && !f.mustRevalidate && f.sMaxAge < 0:
		return false // section 3.5
	case f.explicit, f.public && known:
		return f.lifetime > 0 || hasValidator(h) || f.staleWhileRevalidate > 0 || f.staleIfError > 0
	case f.lifetime > 0:
		return true
	}
	// Without a lifetime it is of use only to be validated.
	return slices.Contains(heuristicStatus, status) && hasValidator(h)
}

func hasValidator(h http.Header) bool {
	return h.Get("Etag") != "" || h.Get("Last-Modified") != ""
}

// use is what may be done with a stored response.
type use int

const (
	useFresh use = iota
	// useStale: answer with it and validate it behind the client's back.
	useStale
	useValidate
)

// decide applies section 4 to a stored response of the given age.
func (f *freshness) decide(rd directives, age time.Duration) use {
	if rd.noCache || f.noCache {
		return useValidate
	}
	left := f.lifetime - age
	// A request's max-age, min-fresh and max-stale (section 5.2.1).
	if rd.maxAge >= 0 && age > rd.maxAge && !(rd.maxStale >= 0 && age <= rd.maxAge+rd.maxStale) {
		return useValidate
	}
	if rd.minFresh >= 0 && left < rd.minFresh {
		return useValidate
	}
	switch {
	case left > 0:
		return useFresh
	case f.staleWhileRevalidate >= 0 && -left <= f.staleWhileRevalidate && !f.mustRevalidate && !f.proxyRevalidate && rd.maxAge < 0 && rd.minFresh < 0:
		// Said beside s-maxage it is the origin's word that stale will do.
		return useStale
	case f.strict():
		return useValidate
	case rd.maxStale >= 0 && -left <= rd.maxStale:
		return useFresh
	}
	return useValidate
}

// reusable reports whether the response may ever answer a request that the origin isn't
// asked about.
func (f *freshness) reusable() bool {
	return !f.noCache && (f.lifetime > 0 || f.staleWhileRevalidate > 0)
}

// strict: never to be used stale (sections 5.2.2.2, 5.2.2.8, 5.2.2.10).
func (f *freshness) strict() bool {
	return f.mustRevalidate || f.proxyRevalidate || f.noCache || f.sMaxAge >= 0
}

// onError reports whether the response may answer for an origin that fails: as
// far as stale-if-error of response or request says (RFC 5861 section 4), else,
// where the origin can't be reached at all, within limit (section 4.2.4).
func (f *freshness) onError(rd directives, age, limit time.Duration, reached bool) bool {
	if f.noCache || f.mustRevalidate || f.proxyRevalidate || f.sMaxAge >= 0 && f.staleIfError < 0 || rd.noCache {
		return false
	}
	past := age - f.lifetime
	allowed := max(f.staleIfError, rd.staleIfError)
	if !reached && allowed < 0 {
		allowed = limit
	}
	return past < 0 || allowed > 0 && past <= allowed
}
