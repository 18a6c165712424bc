package token

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Skew is how far clocks may differ.
const Skew = time.Minute

// None stands in URLs in place of a token for public and unlisted assets.
const None = "-"

// The types of tokens, in the JWT header.
const (
	playbackType = "JWT"
	sessionType  = "meridian-session"
)

// Rules limit who may watch; empty lists allow everyone.
type Rules struct {
	// Geo are ISO 3166-1 alpha-2 country codes.
	Geo []string `json:"geo,omitempty"`
	// CIDR are address prefixes.
	CIDR []netip.Prefix `json:"cidr,omitempty"`
	// Origins are web origins: "https://example.org".
	Origins []string `json:"origins,omitempty"`
}

// AllowsOrigin reports whether a page of the given origin may play. Pass the
// Origin header, or, where browsers send "null" after a redirect, the Referer.
func (r Rules) AllowsOrigin(origin, referer string) bool {
	if len(r.Origins) == 0 {
		return true
	}
	if origin == "" || origin == "null" {
		u, err := url.Parse(referer)
		if err != nil || u.Host == "" {
			return false
		}
		origin = u.Scheme + "://" + u.Host
	}
	return slices.Contains(r.Origins, origin)
}

// AllowsAddr reports whether a viewer's address may play.
func (r Rules) AllowsAddr(a netip.Addr) bool {
	return len(r.CIDR) == 0 || slices.ContainsFunc(r.CIDR, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// AllowsCountry reports whether a viewer in the country (empty: unknown) may play.
func (r Rules) AllowsCountry(code string) bool {
	return len(r.Geo) == 0 || slices.Contains(r.Geo, strings.ToUpper(code))
}

// Claims are what a playback or session token says (RFC 7519).
type Claims struct {
	// Asset is the subject.
	Asset string `json:"sub"`
	// ID identifies the token, for revocation and logs.
	ID string `json:"jti"`
	// Expires limits starting for playback tokens, the whole session for session tokens.
	Expires   int64 `json:"exp"`
	NotBefore int64 `json:"nbf,omitempty"`
	// Audience is "session" in session tokens, empty in playback tokens.
	Audience string `json:"aud,omitempty"`
	// Run limits the token to one run.
	Run string `json:"run,omitempty"`
	// ParentKID and ParentID name the playback token a session came from.
	ParentKID string `json:"pkid,omitempty"`
	ParentID  string `json:"pjti,omitempty"`
	Rules
}

const sessionAudience = "session"

// NewID returns 128 random bits in lower-case base32: an asset id, a token id.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// Mint signs a playback token for an asset.
func Mint(c Claims, s *Signer) (string, error) {
	if c.Asset == "" || c.Expires == 0 {
		return "", fmt.Errorf("playback token: want an asset and an expiry")
	}
	if c.ID == "" {
		c.ID = NewID()
	}
	c.Audience = ""
	b, err := Sign(c, playbackType, s)
	return string(b), err
}

// MintSession signs a session token for a viewer who started with parent, good
// for the given time at every edge. parentKID is the key that signed parent; it
// is empty for sessions of public assets.
func MintSession(parent Claims, parentKID string, until time.Time, s *Signer) (string, Claims, error) {
	c := parent
	c.ParentKID, c.ParentID = parentKID, parent.ID
	c.ID, c.Audience, c.Expires, c.NotBefore = NewID(), sessionAudience, until.Unix(), 0
	b, err := Sign(c, sessionType, s)
	return string(b), c, err
}

// Check verifies a playback or session token for an asset at now and returns
// its claims and the id of the key that signed it. It doesn't apply the rules:
// what they need is known to different parts (origin at the router, address
// and country at the edge). Revocation of single ids is the caller's too.
func Check(tok, asset string, ks *KeySet, now time.Time) (c Claims, kid string, err error) {
	use, typ := UsePlayback, playbackType
	if kid, typ, err = header(tok); err != nil {
		return Claims{}, "", err
	}
	if typ == sessionType {
		use = UseSession
	}
	if err := Verify([]byte(tok), typ, ks, use, now, &c); err != nil {
		return Claims{}, "", err
	}
	switch {
	case (c.Audience == sessionAudience) != (use == UseSession):
		return Claims{}, "", fmt.Errorf("%w: audience %q", ErrForeign, c.Audience)
	case c.Asset != asset:
		return Claims{}, "", fmt.Errorf("%w: asset %q", ErrForeign, c.Asset)
	case now.After(time.Unix(c.Expires, 0)) || c.NotBefore != 0 && now.Before(time.Unix(c.NotBefore, 0).Add(-Skew)):
		return Claims{}, "", ErrExpired
	case c.ParentKID != "" && ks.Revoked(c.ParentKID):
		return Claims{}, "", fmt.Errorf("%w: key %q of its playback token", ErrRevoked, c.ParentKID)
	}
	return c, kid, nil
}

// IsSession reports whether the claims are of a session token.
func (c Claims) IsSession() bool { return c.Audience == sessionAudience }
