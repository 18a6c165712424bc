package edgecache

import (
	"strings"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/token"
)

// maxPath bounds a request path: a token of at most 4 KiB and our own names.
const maxPath = 4096 + 256

type kind int

const (
	kindMaster kind = iota + 1
	kindMedia
	kindSegment
	kindInit
	kindExtra
	kindHealth
	// kindPeer: another edge asks for an object.
	kindPeer
)

func (k kind) String() string {
	return [...]string{"invalid", "master", "media", "segment", "init", "extra", "health", "peer"}[k]
}

// target is what a request path names. All its fields have been checked.
type target struct {
	kind      kind
	token     string
	asset     string
	run       string
	rendition string
	// object is the rest of the path below the rendition: "00003-1/00000.m4s",
	// "poster-720.jpg-1".
	object string
}

const (
	healthPath = "/health/segment"
	// extras stands where a rendition's name does, before a run's posters,
	// storyboard and preview; no rendition has that name. extrasIndex lists them.
	extras      = "extra"
	extrasIndex = "index.json"
)

// parsePath reads a path as it came over the wire. Our URLs need no escapes, so
// there are none to decode: '%', "//", ".." and everything else out of place
// simply isn't a path of ours.
func parsePath(p string) (target, bool) {
	if p == healthPath {
		return target{kind: kindHealth}, true
	}
	rest, ok := strings.CutPrefix(p, "/v/")
	if !ok || len(p) > maxPath {
		return target{}, false
	}
	var t target
	t.token, rest, ok = strings.Cut(rest, "/")
	if !ok || !validTokenForm(t.token) {
		return target{}, false
	}
	t.asset, rest, ok = strings.Cut(rest, "/")
	if !ok || !hls.ValidAssetID(t.asset) {
		return target{}, false
	}
	if rest == "master.m3u8" {
		t.kind = kindMaster
		return t, true
	}
	t.run, rest, ok = strings.Cut(rest, "/")
	if !ok || !hls.ValidRun(t.run) {
		return target{}, false
	}
	t.rendition, t.object, ok = strings.Cut(rest, "/")
	if !ok || !hls.ValidName(t.rendition) {
		return target{}, false
	}
	switch {
	case t.rendition == extras:
		if t.kind = kindExtra; t.object != extrasIndex && !hls.ValidExtra(t.object) {
			return target{}, false
		}
	case t.object == hls.MediaName, t.object == hls.IFrameName && t.rendition[0] == 'v':
		t.kind = kindMedia
	case hls.ValidInit(t.object):
		t.kind = kindInit
	case validSegment(t.object):
		t.kind = kindSegment
	default:
		return target{}, false
	}
	return t, true
}

// validTokenForm reports whether s is "-" or has the form of a compact JWS: three
// non-empty parts of base64url.
func validTokenForm(s string) bool {
	if s == token.None {
		return true
	}
	dots, part := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if part == 0 {
				return false
			}
			dots, part = dots+1, 0
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			part++
		default:
			return false
		}
	}
	return dots == 2 && part > 0
}

// validSegment reports whether s is {chunk}-{attempt}/{segment}.m4s, or .vtt.
func validSegment(s string) bool {
	dir, file, _ := strings.Cut(s, "/")
	chunk, attempt, _ := strings.Cut(dir, "-")
	number, ok := strings.CutSuffix(file, ".m4s")
	if !ok {
		number, ok = strings.CutSuffix(file, ".vtt")
	}
	return ok && len(chunk) == 5 && digits(chunk) && len(number) == 5 && digits(number) &&
		len(attempt) >= 1 && len(attempt) <= 9 && attempt[0] != '0' && digits(attempt)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
