package geodns

import (
	"errors"
	"strings"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/token"
)

// Bounds of a playback path.
const (
	maxPath     = 4096
	maxTokenLen = 3072
	maxParts    = 6
)

var errPath = errors.New("not a playback path")

// playbackPath is a path under /v/.
type playbackPath struct {
	// Token is "-" or a token's text.
	Token string
	Asset string
	// Rest below the asset: "master.m3u8".
	Rest string
}

// parsePlaybackPath takes /v/{token}/{asset}/{rest} apart, as it was sent:
// nothing in a playback path needs escaping, so an escape is an attempt to mean
// something else to the edge than to us.
func parsePlaybackPath(escaped string) (playbackPath, error) {
	var p playbackPath
	rest, ok := strings.CutPrefix(escaped, "/v/")
	if !ok || len(escaped) > maxPath {
		return p, errPath
	}
	p.Token, rest, _ = strings.Cut(rest, "/")
	p.Asset, p.Rest, _ = strings.Cut(rest, "/")
	if !validToken(p.Token) || !hls.ValidAssetID(p.Asset) {
		return playbackPath{}, errPath
	}
	parts := strings.Split(p.Rest, "/")
	if len(parts) > maxParts {
		return playbackPath{}, errPath
	}
	for _, part := range parts {
		if !validPart(part) {
			return playbackPath{}, errPath
		}
	}
	return p, nil
}

// validToken: "-", or a JWT's three parts of base64url.
func validToken(s string) bool {
	if s == token.None {
		return true
	}
	if len(s) > maxTokenLen || strings.Count(s, ".") != 2 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !alnum(r) && r != '-' && r != '_' }) {
			return false
		}
	}
	return true
}

// validPart: a file or directory name of ours; never hidden, never "..".
func validPart(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' || strings.Contains(s, "..") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !alnum(r) && r != '-' && r != '_' && r != '.' })
}

func alnum(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' }
