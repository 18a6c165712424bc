package httpcache

import (
	"net/http"
	"testing"
)

// twice asks twice, some seconds apart.
func twice(response fields, after int, want string) []step {
	return []step{{response: response, want: "miss"}, {after: after, response: response, want: want}}
}

// TestRFC holds RFC 9111's requirements, and those of RFC 5861 and 9213, by
// section; how they are put follows the public conformance tests for caches.
func TestRFC(t *testing.T) {
	fresh := fields{"Cache-Control: max-age=3600"}
	with := func(more ...string) fields { return append(fields{"Cache-Control: max-age=3600"}, more...) }
	get := func(s step) []step { return []step{{response: fresh, want: "miss"}, s} }
	type cases map[string][]step
	for section, cs := range map[string]cases{
		"3 storing": {
			"max-age":                       twice(fresh, 10, "hit"),
			"nothing said, no validator":    twice(nil, 1, "miss"),
			"nothing said, validator":       twice(fields{`Etag: "a"`}, 1, "validated"),
			"no-store":                      twice(fields{"Cache-Control: no-store, max-age=3600"}, 1, "miss"),
			"private":                       twice(fields{"Cache-Control: private, max-age=3600"}, 1, "miss"),
			"other case":                    twice(fields{"Cache-Control: MaX-aGe=3600"}, 10, "hit"),
			"unknown directives":            twice(fields{`Cache-Control: foo, bar="a, no-store", max-age=3600`}, 10, "hit"),
			"must-understand over no-store": twice(fields{"Cache-Control: must-understand, no-store, max-age=3600"}, 10, "hit"),
			"must-understand, unknown code": {{status: 299, response: fields{"Cache-Control: must-understand, max-age=3600"}, want: "miss"}, {status: 299, want: "miss"}},
			"unknown code, max-age":         {{status: 299, response: fresh, want: "miss"}, {want: "hit", wantStatus: 299}},
			"request no-store":              {{request: fields{"Cache-Control: no-store"}, response: fresh, want: "miss"}, {response: fresh, want: "miss"}},
			"404 with max-age":              {{status: 404, response: fresh, want: "miss"}, {want: "hit", wantStatus: 404}},
			"500 with max-age":              {{status: 500, response: fresh, want: "miss"}, {want: "hit", wantStatus: 500}},
			"500 without":                   {{status: 500, want: "miss"}, {want: "miss"}},
			"302 with max-age":              {{status: 302, response: with("Location: /b"), want: "miss"}, {want: "hit", wantStatus: 302, wantFields: fields{"Location: /b"}}},
			"404 without":                   {{status: 404, want: "miss"}, {status: 404, want: "miss"}},
			"POST":                          {{method: "POST", response: fresh, want: "miss"}, {method: "POST", response: fresh, want: "miss"}},
			"query is part of the key":      {{path: "/a?b", response: fresh, want: "miss"}, {path: "/a?c", response: fresh, want: "miss"}, {path: "/a?c", want: "hit"}},
			"416 is no whole response":      {{request: fields{"Range: bytes=100-"}, status: 416, response: with("Content-Range: bytes */6"), want: "miss"}, {response: fresh, want: "miss"}},
			"412 isn't, either":             {{status: 412, response: fresh, want: "miss"}, {response: fresh, want: "miss"}},
			"HEAD from GET":                 get(step{method: "HEAD", want: "hit", wantFields: fields{"Content-Length: 6"}}),
		},
		"3.1 header fields": {
			"kept":                       {{response: with("Test: a", "Content-Type: text/x"), want: "miss"}, {want: "hit", wantFields: fields{"Test: a", "Content-Type: text/x"}}},
			"of the connection, dropped": {{response: with("Connection: a, b", "A: 1", "B: 2", "C: 3", "Proxy-Authenticate: x"), want: "miss", wantAbsent: []string{"A", "B"}}, {want: "hit", wantAbsent: []string{"A", "B", "Proxy-Authenticate"}, wantFields: fields{"C: 3"}}},
			"several lines":              {{response: with("Test: a", "Test: b"), want: "miss"}, {want: "hit", wantFields: fields{"Test: a, b"}}},
			"no type is guessed":         {{response: with("Content-Type: -"), want: "miss", wantAbsent: []string{"Content-Type"}}, {want: "hit", wantAbsent: []string{"Content-Type"}}},
			"requests lose them too":     {{request: fields{"Connection: A", "A: 1", "B: 2", "Te: trailers"}, response: fresh, want: "miss", sent: fields{"A: -", "B: 2", "Te: -"}}},
		},
		"3.2 and 4.3.4 updates": {
			"304 updates": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`, "Test: 1", "Other: 1", "Content-Type: text/a"}, want: "miss"},
				{after: 5, response: fields{"Cache-Control: max-age=60", `Etag: "a"`, "Test: 2"}, want: "validated", wantFields: fields{"Test: 2", "Other: 1", "Content-Type: text/a"}},
				{after: 50, want: "hit", wantFields: fields{"Test: 2", "Other: 1", "Cache-Control: max-age=60", "Age: 50", "Content-Length: 6"}}},
			"304 by date": {{response: fields{"Cache-Control: max-age=1", "Last-Modified: " + at(-1000), "Test: 1"}, want: "miss"},
				{after: 5, response: fields{"Cache-Control: max-age=60", "Last-Modified: " + at(-1000), "Test: 2"}, want: "validated", wantFields: fields{"Test: 2"}}, {want: "hit"}},
			"304 with no-store": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"},
				{after: 5, response: fields{"Cache-Control: no-store", `Etag: "a"`}, want: "validated"}, {response: fields{`Etag: "a"`}, want: "miss"}},
			"304 with Vary: *": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"},
				{after: 5, response: with(`Etag: "a"`, "Vary: *"), want: "validated"}, {response: fresh, want: "miss"}},
			"304 with must-understand": {{response: fields{"Cache-Control: max-age=1, must-understand, no-store", `Etag: "a"`}, want: "miss"},
				{after: 5, response: fields{"Cache-Control: max-age=60, must-understand, no-store", `Etag: "a"`}, want: "validated"}, {want: "hit"}},
			"304 to a request's no-store": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"},
				{after: 5, request: fields{"Cache-Control: no-store"}, response: with(`Etag: "a"`, "Test: 2"), want: "validated", wantFields: fields{"Test: 2"}}, {response: with(`Etag: "a"`), want: "validated", wantAbsent: []string{"Test"}}},
			"304 to credentials": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"},
				{after: 5, request: fields{"Authorization: a"}, response: with(`Etag: "a"`, "Test: 2"), want: "validated", wantFields: fields{"Test: 2"}}, {response: with(`Etag: "a"`), want: "validated", wantAbsent: []string{"Test"}}},
			"200 replaces": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, response: with(`Etag: "b"`), want: "miss", sent: fields{`If-None-Match: "a"`}}, {want: "hit"}},
			"404 replaces": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, status: 404, response: fresh, want: "miss"}, {want: "hit", wantStatus: 404}},
		},
		"3.3 incomplete": {
			"range of the whole":       get(step{request: fields{"Range: bytes=0-1"}, want: "hit", wantStatus: 206, wantFields: fields{"Content-Range: bytes 0-1/6", "Content-Length: 2"}}),
			"open range":               get(step{request: fields{"Range: bytes=1-"}, want: "hit", wantStatus: 206, wantFields: fields{"Content-Range: bytes 1-5/6"}}),
			"suffix":                   get(step{request: fields{"Range: bytes=-2"}, want: "hit", wantStatus: 206, wantFields: fields{"Content-Range: bytes 4-5/6"}}),
			"not satisfiable":          get(step{request: fields{"Range: bytes=6-"}, want: "hit", wantStatus: 416, wantFields: fields{"Content-Range: bytes */6"}}),
			"if-range of another":      {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{"Range: bytes=0-1", `If-Range: "b"`}, want: "hit"}},
			"if-range, weak":           {{response: with(`Etag: W/"a"`), want: "miss"}, {request: fields{"Range: bytes=0-1", `If-Range: W/"a"`}, want: "hit"}},
			"206 is no whole response": {{request: fields{"Range: bytes=0-1"}, status: 206, response: with("Content-Range: bytes 0-1/6"), body: "bo", want: "miss"}, {response: fresh, want: "miss"}},
			"only-if-cached, of a part": {{request: fields{"Range: bytes=0-3"}, status: 206, response: with("Content-Range: bytes 0-3/6"), body: "body", want: "miss"},
				{request: fields{"Range: bytes=1-2", "Cache-Control: only-if-cached"}, want: "hit", wantStatus: 206, wantFields: fields{"Content-Range: bytes 1-2/6"}},
				{request: fields{"Range: bytes=1-4", "Cache-Control: only-if-cached"}, want: "refused", wantStatus: 504}},
			"404 has no ranges": {{status: 404, response: fresh, want: "miss"}, {request: fields{"Range: bytes=0-1"}, want: "hit", wantStatus: 404}},
		},
		"3.5 authorization": {
			"not stored":             {{request: fields{"Authorization: a"}, response: fresh, want: "miss"}, {response: fresh, want: "miss"}},
			"public":                 {{request: fields{"Authorization: a"}, response: fields{"Cache-Control: public, max-age=60"}, want: "miss"}, {want: "hit"}},
			"s-maxage":               {{request: fields{"Authorization: a"}, response: fields{"Cache-Control: s-maxage=60"}, want: "miss"}, {want: "hit"}},
			"must-revalidate":        {{request: fields{"Authorization: a"}, response: fields{"Cache-Control: max-age=60, must-revalidate"}, want: "miss"}, {want: "hit"}},
			"stored without answers": get(step{request: fields{"Authorization: a"}, want: "hit"}),
		},
		"4.1 vary": {
			"match":                 {{request: fields{"Foo: 1"}, response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 1"}, want: "hit"}},
			"no match":              {{request: fields{"Foo: 1"}, response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 2"}, response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 2"}, want: "hit"}},
			"absent and present":    {{response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 1"}, response: fresh, want: "miss"}},
			"absent in both":        {{response: with("Vary: Foo"), want: "miss"}, {want: "hit"}},
			"two fields":            {{request: fields{"Foo: 1", "Bar: 2"}, response: with("Vary: Foo, bar"), want: "miss"}, {request: fields{"Foo: 1", "Bar: 3"}, response: fresh, want: "miss"}},
			"two lines":             {{request: fields{"Foo: 1", "Bar: 2"}, response: with("Vary: Foo", "Vary: Bar"), want: "miss"}, {request: fields{"Foo: 1", "Bar: 3"}, response: fresh, want: "miss"}},
			"white space":           {{request: fields{"Foo: 1, 2"}, response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 1,2"}, want: "hit"}},
			"joined lines":          {{request: fields{"Foo: 1, 2"}, response: with("Vary: Foo"), want: "miss"}, {request: fields{"Foo: 1", "Foo: 2"}, want: "hit"}},
			"star":                  twice(with("Vary: *"), 1, "miss"),
			"star, star":            twice(with("Vary: *, *"), 1, "miss"),
			"star on a second line": twice(with("Vary: ", "Vary: *"), 1, "miss"),
			"star beside a name":    twice(with("Vary: Foo, *"), 1, "miss"),
		},
		"4.2.1 lifetime": {
			"max-age over":                 twice(fields{"Cache-Control: max-age=5"}, 6, "miss"),
			"max-age=0":                    twice(fields{"Cache-Control: max-age=0"}, 0, "miss"),
			"s-maxage first":               twice(fields{"Cache-Control: max-age=1, s-maxage=60"}, 10, "hit"),
			"s-maxage short":               twice(fields{"Cache-Control: max-age=60, s-maxage=1"}, 10, "miss"),
			"Expires":                      twice(fields{"Expires: " + at(60)}, 10, "hit"),
			"Expires over":                 twice(fields{"Expires: " + at(5)}, 10, "miss"),
			"Expires by Date":              twice(fields{"Date: " + at(-100), "Expires: " + at(-50)}, 10, "miss"),
			"max-age beats Expires":        twice(fields{"Cache-Control: max-age=60", "Expires: " + at(-10)}, 10, "hit"),
			"max-age=0 beats Expires":      twice(fields{"Cache-Control: max-age=0", "Expires: " + at(100)}, 10, "miss"),
			"invalid Expires":              twice(fields{"Expires: 0", `Etag: "a"`}, 0, "validated"),
			"two max-age, the stricter":    twice(fields{"Cache-Control: max-age=1800, max-age=1"}, 10, "miss"),
			"two lines, the stricter":      twice(fields{"Cache-Control: max-age=1", "Cache-Control: max-age=1800"}, 10, "miss"),
			"quoted in another":            twice(fields{`Cache-Control: extension="max-age=3600", max-age=1`}, 10, "miss"),
			"quoted in another, reversed":  twice(fields{`Cache-Control: max-age=1, extension="max-age=3600"`}, 10, "miss"),
			"quoted":                       twice(fields{`Cache-Control: max-age="3600"`}, 10, "hit"),
			"single-quoted":                twice(fields{`Cache-Control: max-age='3600'`}, 10, "miss"),
			"space before the equals sign": twice(fields{`Cache-Control: max-age =3600`}, 10, "miss"),
			"space after the equals sign":  twice(fields{`Cache-Control: max-age= 3600`}, 10, "miss"),
			"leading zeros":                twice(fields{`Cache-Control: max-age=003600`}, 10, "hit"),
			"decimals":                     twice(fields{`Cache-Control: max-age=3600.5`}, 10, "miss"),
			"negative":                     twice(fields{`Cache-Control: max-age=-3600`}, 10, "miss"),
			"letters":                      twice(fields{`Cache-Control: max-age=3600a`}, 10, "miss"),
			"very large":                   twice(fields{`Cache-Control: max-age=99999999999999999999`}, 1000, "hit"),
		},
		"4.2.3 age": {
			"counts":              twice(with("Age: 7200"), 1, "miss"),
			"counts on":           twice(with("Age: 3590"), 20, "miss"),
			"is sent":             {{response: with("Age: 100"), want: "miss"}, {after: 7, want: "hit", wantFields: fields{"Age: 107"}}},
			"old date":            twice(with("Date: "+at(-7200)), 1, "miss"),
			"date in the future":  twice(with("Date: "+at(7200)), 1, "hit"),
			"no number":           twice(with("Age: abc"), 1, "hit"),
			"negative":            twice(with("Age: -7200"), 1, "hit"),
			"list, the first":     twice(with("Age: 7200, 0"), 1, "miss"),
			"two lines, first":    twice(with("Age: 7200", "Age: 0"), 1, "miss"),
			"no date is no error": {{response: with("Date: -"), want: "miss"}, {after: 5, want: "hit", wantFields: fields{"Date: " + at(0), "Age: 5"}}},
		},
		"4.2.4 stale": {
			"origin down, not allowed": {{response: fields{"Cache-Control: max-age=1"}, want: "miss"}, {after: 5, down: true, want: "miss", wantStatus: 502}},
			"must-revalidate": {{response: fields{"Cache-Control: max-age=1, must-revalidate, stale-if-error=60"}, want: "miss"},
				{after: 5, down: true, want: "miss", wantStatus: 504}},
		},
		"4.3 validation": {
			"stored condition is kept":   {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{`If-None-Match: "a"`}, want: "hit", wantStatus: 304, wantFields: fields{`Etag: "a"`}}},
			"weak match":                 {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{`If-None-Match: W/"a"`}, want: "hit", wantStatus: 304}},
			"another tag":                {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{`If-None-Match: "b"`}, want: "hit"}},
			"since":                      {{response: with("Last-Modified: " + at(-100)), want: "miss"}, {request: fields{"If-Modified-Since: " + at(-100)}, want: "hit", wantStatus: 304}},
			"since, by Date":             {{response: fresh, want: "miss"}, {after: 10, request: fields{"If-Modified-Since: " + at(0)}, want: "hit", wantStatus: 304}, {request: fields{"If-Modified-Since: " + at(-1)}, want: "hit"}},
			"no range by Date":           {{response: fresh, want: "miss"}, {after: 10, request: fields{"Range: bytes=0-1", "If-Range: " + at(0)}, want: "hit"}},
			"If-Match":                   {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{`If-Match: "b"`}, want: "hit", wantStatus: 412}},
			"client's isn't forwarded":   {{request: fields{`If-None-Match: "x"`, "If-Modified-Since: " + at(0)}, response: with(`Etag: "a"`), want: "miss", sent: fields{"If-None-Match: -", "If-Modified-Since: -"}}, {want: "hit"}},
			"client's on a first answer": {{request: fields{`If-None-Match: "a"`}, response: with(`Etag: "a"`), want: "miss", wantStatus: 304}, {request: fields{`If-None-Match: "a"`}, want: "hit", wantStatus: 304}},
		},
		"4.3.5 HEAD": {
			"updates":          {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`, "Test: 1"}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: with(`Etag: "a"`, "Test: 2"), want: "miss"}, {want: "hit", wantFields: fields{"Test: 2"}}},
			"of another":       {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: with(`Etag: "b"`), want: "miss"}, {response: fresh, want: "miss"}},
			"of another size":  {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", body: "longer body", response: with(`Etag: "a"`), want: "miss"}, {response: fresh, want: "miss"}},
			"of a 404":         {{status: 404, response: fields{"Cache-Control: max-age=1"}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: fresh, want: "miss"}, {response: fresh, want: "miss"}},
			"private":          {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: fields{"Cache-Control: private, max-age=60", `Etag: "a"`}, want: "miss"}, {response: fresh, want: "miss"}},
			"no-store":         {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: fields{"Cache-Control: no-store, max-age=60", `Etag: "a"`}, want: "miss"}, {response: fresh, want: "miss"}},
			"with Vary: *":     {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", body: "body 1", response: with(`Etag: "a"`, "Vary: *"), want: "miss"}, {response: fresh, want: "miss"}},
			"with credentials": {{response: fields{"Cache-Control: max-age=1", `Etag: "a"`}, want: "miss"}, {after: 5, method: "HEAD", request: fields{"Authorization: a"}, body: "body 1", response: with(`Etag: "a"`), want: "miss"}, {response: with(`Etag: "a"`), want: "validated"}},
			"is no GET's body": {{method: "HEAD", response: fresh, want: "miss"}, {response: fresh, want: "miss"}},
		},
		"4.4 invalidation": {
			"POST":               {{response: fresh, want: "miss"}, {method: "POST", want: "miss"}, {response: fresh, want: "miss"}},
			"PUT":                {{response: fresh, want: "miss"}, {method: "PUT", want: "miss"}, {response: fresh, want: "miss"}},
			"DELETE":             {{response: fresh, want: "miss"}, {method: "DELETE", want: "miss"}, {response: fresh, want: "miss"}},
			"unknown method":     {{response: fresh, want: "miss"}, {method: "FOO", want: "miss"}, {response: fresh, want: "miss"}},
			"redirect":           {{response: fresh, want: "miss"}, {method: "POST", status: 303, want: "miss"}, {response: fresh, want: "miss"}},
			"not by errors":      {{response: fresh, want: "miss"}, {method: "POST", status: 500, want: "miss"}, {want: "stale"}},
			"not by OPTIONS":     {{response: fresh, body: "b", want: "miss"}, {method: "OPTIONS", body: "b", want: "miss"}, {want: "hit"}},
			"Location":           {{path: "/b", response: fresh, want: "miss"}, {method: "POST", response: fields{"Location: /b"}, want: "miss"}, {path: "/b", response: fresh, want: "miss"}},
			"Content-Location":   {{path: "/b", response: fresh, want: "miss"}, {method: "POST", response: fields{"Content-Location: b"}, want: "miss"}, {path: "/b", response: fresh, want: "miss"}},
			"not another host's": {{path: "/b", response: fresh, body: "x", want: "miss"}, {method: "POST", body: "x", response: fields{"Location: http://other.example/b"}, want: "miss"}, {path: "/b", want: "hit"}},
		},
		"5.2.1 requests": {
			"no-cache":             {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{"Cache-Control: no-cache"}, response: with(`Etag: "a"`), want: "validated"}, {want: "hit"}},
			"no-cache renews":      {{response: fresh, want: "miss"}, {request: fields{"Cache-Control: no-cache"}, response: fresh, want: "miss"}, {want: "hit"}},
			"pragma":               {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{"Pragma: no-cache"}, response: with(`Etag: "a"`), want: "validated"}},
			"pragma after control": {{response: with(`Etag: "a"`), want: "miss"}, {request: fields{"Pragma: no-cache", "Cache-Control: foo"}, want: "hit"}},
			"max-age":              {{response: fresh, want: "miss"}, {after: 10, request: fields{"Cache-Control: max-age=20"}, want: "hit"}, {after: 20, request: fields{"Cache-Control: max-age=20"}, response: fresh, want: "miss"}},
			"min-fresh":            {{response: fresh, want: "miss"}, {after: 10, request: fields{"Cache-Control: min-fresh=3000"}, want: "hit"}, {request: fields{"Cache-Control: min-fresh=3595"}, response: fresh, want: "miss"}},
			"max-stale":            {{response: fields{"Cache-Control: max-age=5"}, want: "miss"}, {after: 10, request: fields{"Cache-Control: max-stale=100"}, want: "hit"}, {request: fields{"Cache-Control: max-stale=1"}, response: fresh, want: "miss"}},
			"max-stale, any":       {{response: fields{"Cache-Control: max-age=5"}, want: "miss"}, {after: 1000, request: fields{"Cache-Control: max-stale"}, want: "hit"}},
			"max-stale, forbidden": {{response: fields{"Cache-Control: max-age=5, must-revalidate"}, want: "miss"}, {after: 10, request: fields{"Cache-Control: max-stale"}, response: fresh, want: "miss"}},
			"only-if-cached":       {{request: fields{"Cache-Control: only-if-cached"}, want: "refused", wantStatus: 504}},
			"only-if-cached, hit":  get(step{request: fields{"Cache-Control: only-if-cached"}, want: "hit"}),
		},
		"5.2.2 responses": {
			"no-cache":            twice(fields{"Cache-Control: no-cache, max-age=60", `Etag: "a"`}, 1, "validated"),
			"no-cache of a field": {{response: fields{`Cache-Control: no-cache="Test, b", max-age=60`, "Test: 1", "C: 1"}, want: "miss", wantFields: fields{"Test: 1"}}, {want: "hit", wantAbsent: []string{"Test"}, wantFields: fields{"C: 1"}}},
			"no-cache of a field, 304": {{response: fields{`Cache-Control: no-cache="Test", max-age=1`, "Test: 1", `Etag: "a"`}, want: "miss"},
				{after: 5, response: fields{`Cache-Control: no-cache="Test", max-age=60`, "Test: 2", `Etag: "a"`}, want: "validated", wantFields: fields{"Test: 2"}}, {want: "hit", wantAbsent: []string{"Test"}}},
			"private field":        {{response: fields{`Cache-Control: private="Set-Cookie", max-age=60`, "Set-Cookie: s=1"}, want: "miss", wantFields: fields{"Set-Cookie: s=1"}}, {want: "hit", wantAbsent: []string{"Set-Cookie"}}},
			"proxy-revalidate":     {{response: fields{"Cache-Control: max-age=1, proxy-revalidate"}, want: "miss"}, {after: 5, request: fields{"Cache-Control: max-stale"}, response: fresh, want: "miss"}},
			"public without more":  twice(fields{"Cache-Control: public", `Etag: "a"`}, 1, "validated"),
			"Set-Cookie is stored": {{response: with("Set-Cookie: a=b"), want: "miss"}, {want: "hit", wantFields: fields{"Set-Cookie: a=b"}}},
		},
		"RFC 5861": {
			"stale-while-revalidate":      {{response: fields{"Cache-Control: max-age=1, stale-while-revalidate=60"}, want: "miss"}, {after: 5, response: fields{"Cache-Control: max-age=1, stale-while-revalidate=60"}, body: "body 1", want: "stale"}},
			"stale-while-revalidate over": {{response: fields{"Cache-Control: max-age=1, stale-while-revalidate=5"}, want: "miss"}, {after: 10, response: fresh, want: "miss"}},
			"with must-revalidate":        {{response: fields{"Cache-Control: max-age=1, stale-while-revalidate=60, must-revalidate"}, want: "miss"}, {after: 10, response: fresh, want: "miss"}},
			"stale-if-error, 503":         {{response: fields{"Cache-Control: max-age=1, stale-if-error=60"}, want: "miss"}, {after: 10, status: 503, want: "stale"}},
			"stale-if-error, down":        {{response: fields{"Cache-Control: max-age=1, stale-if-error=60"}, want: "miss"}, {after: 10, down: true, want: "stale"}},
			"stale-if-error over":         {{response: fields{"Cache-Control: max-age=1, stale-if-error=5"}, want: "miss"}, {after: 10, status: 503, want: "miss"}},
			"stale-if-error, 404":         {{response: fields{"Cache-Control: max-age=1, stale-if-error=60"}, want: "miss"}, {after: 10, status: 404, want: "miss"}},
			"of the request":              {{response: fields{"Cache-Control: max-age=1"}, want: "miss"}, {after: 10, request: fields{"Cache-Control: stale-if-error=60"}, status: 500, want: "stale"}},
		},
		"RFC 9213": {
			"max-age":                     twice(fields{"CDN-Cache-Control: max-age=3600"}, 10, "hit"),
			"largest":                     twice(fields{"CDN-Cache-Control: max-age=99999999999"}, 10, "hit"),
			"age counts":                  twice(fields{"CDN-Cache-Control: max-age=3600", "Age: 7200"}, 1, "miss"),
			"max-age=0":                   twice(fields{"CDN-Cache-Control: max-age=0"}, 1, "miss"),
			"extension":                   twice(fields{"CDN-Cache-Control: foobar, max-age=3600"}, 10, "hit"),
			"other case is no key":        twice(fields{"CDN-Cache-Control: MaX-aGe=3600"}, 10, "miss"),
			"Expires doesn't count":       twice(fields{"CDN-Cache-Control: max-age=3600", "Expires: " + at(-100)}, 10, "hit"),
			"zero beats Expires":          twice(fields{"CDN-Cache-Control: max-age=0", "Expires: " + at(100)}, 10, "miss"),
			"long beats short":            twice(fields{"Cache-Control: max-age=1", "CDN-Cache-Control: max-age=3600"}, 10, "hit"),
			"short beats long":            twice(fields{"Cache-Control: max-age=3600", "CDN-Cache-Control: max-age=1"}, 10, "miss"),
			"private":                     twice(fields{"CDN-Cache-Control: private", "Cache-Control: max-age=3600"}, 1, "miss"),
			"no-cache":                    twice(fields{"CDN-Cache-Control: no-cache", "Cache-Control: max-age=3600"}, 1, "miss"),
			"no-store":                    twice(fields{"CDN-Cache-Control: no-store", "Cache-Control: max-age=3600"}, 1, "miss"),
			"beats no-store":              twice(fields{"Cache-Control: no-store", "CDN-Cache-Control: max-age=3600"}, 10, "hit"),
			"no structured field":         twice(fields{"CDN-Cache-Control: max-age=10000, &&&&&", "Cache-Control: no-store"}, 1, "miss"),
			"wrong type":                  twice(fields{`CDN-Cache-Control: max-age="10000"`, "Cache-Control: no-store"}, 1, "miss"),
			"space before equals":         twice(fields{"Cache-Control: max-age=1", "CDN-Cache-Control: max-age =100"}, 10, "miss"),
			"space after equals":          twice(fields{"Cache-Control: max-age=1", "CDN-Cache-Control: max-age= 100"}, 10, "miss"),
			"parameters are no matter":    twice(fields{"CDN-Cache-Control: max-age=60;a=b;c, foo=(a b);d=?0"}, 10, "hit"),
			"false is as if not there":    twice(fields{"CDN-Cache-Control: max-age=60, no-store=?0"}, 10, "hit"),
			"the field goes on to others": {{response: fields{"CDN-Cache-Control: max-age=60"}, want: "miss"}, {want: "hit", wantFields: fields{"CDN-Cache-Control: max-age=60"}}},
		},
	} {
		t.Run(section, func(t *testing.T) {
			for name, steps := range cs {
				t.Run(name, func(t *testing.T) { run(t, false, steps) })
			}
		})
	}
	t.Run("4.2.2 heuristics", func(t *testing.T) {
		old := fields{"Last-Modified: " + at(-1000)}
		for name, steps := range map[string][]step{
			"a tenth of its age": twice(old, 90, "hit"),
			"and no more":        twice(old, 110, "validated"),
			"not with no-cache":  twice(append(fields{"Cache-Control: no-cache"}, old...), 1, "validated"),
			"404":                {{status: 404, response: old, want: "miss"}, {after: 90, want: "hit", wantStatus: 404}},
			"201":                {{status: 201, response: old, want: "miss"}, {status: 201, want: "miss"}},
			"201, public":        {{status: 201, response: append(fields{"Cache-Control: public"}, old...), want: "miss"}, {after: 90, want: "hit", wantStatus: http.StatusCreated}},
		} {
			t.Run(name, func(t *testing.T) { run(t, true, steps) })
		}
	})
}
