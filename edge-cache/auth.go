package edgecache

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/token"
)

// finder finds the newest playback record of an asset.
type finder interface {
	Newest(ctx context.Context, asset string) (playback.Record, error)
}

// countries tells the country of an address, "" when it isn't known.
type countries func(netip.Addr) string

// guard decides whether a request may have what it asks for.
type guard struct {
	finder  finder
	keys    func() *token.KeySet
	country countries
	tokens  verified
	now     func() time.Time
}

// grant is what was found about an allowed request.
type grant struct {
	record playback.Record
	claims token.Claims // zero without a token
	kid    string
}

func (g *guard) check(r *http.Request, t target) (grant, error) {
	rec, err := g.finder.Newest(r.Context(), t.asset)
	if err != nil {
		return grant{}, err
	}
	out := grant{record: rec}
	if rec.Gone() {
		return out, errGone
	}
	if t.token != token.None {
		if out.claims, out.kid, err = g.verify(t.token, t.asset); err != nil {
			if errors.Is(err, token.ErrForged) || errors.Is(err, token.ErrUnknownKey) {
				return out, errBadToken
			}
			return out, err
		}
		if out.claims.Run != "" && out.claims.Run != rec.Run && t.run == "" || t.run != "" && out.claims.Run != "" && out.claims.Run != t.run {
			return out, errForeign
		}
		if !g.allows(r, out.claims.Rules) {
			return out, errRule
		}
	} else if rec.Visibility != playback.Public && rec.Visibility != playback.Unlisted {
		return out, errNoToken
	}
	if !g.allows(r, rec.Rules) {
		return out, errRule
	}
	return out, nil
}

func (g *guard) allows(r *http.Request, rules token.Rules) bool {
	if len(rules.Origins) == 0 && len(rules.CIDR) == 0 && len(rules.Geo) == 0 {
		return true
	}
	if !rules.AllowsOrigin(r.Header.Get("Origin"), r.Header.Get("Referer")) {
		return false
	}
	if len(rules.CIDR) == 0 && len(rules.Geo) == 0 {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	return rules.AllowsAddr(peer.Addr()) && (len(rules.Geo) == 0 || rules.AllowsCountry(g.country(peer.Addr())))
}

// verify is token.Check, remembered.
func (g *guard) verify(tok, asset string) (token.Claims, string, error) {
	now, keys := g.now(), g.keys()
	if v, ok := g.tokens.get(tok); ok && v.keys == keys && now.Before(v.until) && now.After(v.from) {
		if v.claims.Asset != asset {
			return token.Claims{}, "", token.ErrForeign
		}
		return v.claims, v.kid, nil
	}
	claims, kid, err := token.Check(tok, asset, keys, now)
	if err != nil {
		return token.Claims{}, "", err
	}
	// Checked again after a minute: keys have times too.
	until := now.Add(time.Minute)
	if exp := time.Unix(claims.Expires, 0); exp.Before(until) {
		until = exp
	}
	g.tokens.put(tok, verifiedToken{claims: claims, kid: kid, keys: keys, from: now.Add(-token.Skew), until: until})
	return claims, kid, nil
}

// maxVerified bounds each of the two generations of remembered tokens.
const maxVerified = 16384

// verified remembers tokens that were found good, so that a hit costs no
// signature check. What was bad is never remembered: it would be free to fill.
// Two generations: when the young one is full it becomes the old one, so tokens
// in use stay and the rest go, without bookkeeping per hit.
type verified struct {
	mu         sync.RWMutex
	young, old map[string]verifiedToken
}

type verifiedToken struct {
	claims      token.Claims
	kid         string
	keys        *token.KeySet // the set it was checked against
	from, until time.Time
}

func (v *verified) get(tok string) (verifiedToken, bool) {
	v.mu.RLock()
	t, ok := v.young[tok]
	old, wasOld := verifiedToken{}, false
	if !ok {
		old, wasOld = v.old[tok]
	}
	v.mu.RUnlock()
	if ok || !wasOld {
		return t, ok
	}
	v.put(tok, old)
	return old, true
}

func (v *verified) put(tok string, t verifiedToken) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.young == nil || len(v.young) >= maxVerified {
		v.old, v.young = v.young, make(map[string]verifiedToken, 64)
	}
	v.young[strings.Clone(tok)] = t // tok is part of a whole request line
}
