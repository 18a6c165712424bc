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
	// Known is Newest when that needn't wait.
	Known(asset string) (playback.Record, bool)
}

// countries tells the country of an address, "" when it isn't known.
type countries func(netip.Addr) string

// guard decides whether a request may have what it asks for.
type guard struct {
	finder  finder
	keys    func() *token.KeySet
	country countries
	tokens  generations[verifiedToken]
	purged  purged
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
	return g.decide(r, t, rec, (*guard).verify)
}

// recall is check where everything is known already and nothing depends on who
// asks; false leaves it to check. The target's strings are not kept.
func (g *guard) recall(t target) (grant, bool) {
	rec, ok := g.finder.Known(t.asset)
	if !ok {
		return grant{}, false
	}
	out, err := g.decide(nil, t, rec, (*guard).remembered)
	return out, err == nil
}

// decide applies record and token; without a request any rule refuses.
func (g *guard) decide(r *http.Request, t target, rec playback.Record, verify func(g *guard, tok, asset string) (token.Claims, string, error)) (grant, error) {
	out := grant{record: rec}
	if rec.Gone() || g.purged.void(rec) {
		return out, errGone
	}
	if t.token != token.None {
		var err error
		if out.claims, out.kid, err = verify(g, t.token, t.asset); err != nil {
			if errors.Is(err, token.ErrForged) || errors.Is(err, token.ErrUnknownKey) {
				return out, errBadToken
			}
			return out, err
		}
		if g.purged.revoked(out.claims) {
			return out, errRevoked
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
	if r == nil || !rules.AllowsOrigin(r.Header.Get("Origin"), r.Header.Get("Referer")) {
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

// verify is token.Check, remembered. What was bad is never remembered: it would
// be free to fill.
func (g *guard) verify(tok, asset string) (token.Claims, string, error) {
	claims, kid, err := g.remembered(tok, asset)
	if !errors.Is(err, errUnknown) {
		return claims, kid, err
	}
	now, keys := g.now(), g.keys()
	claims, kid, err = token.Check(tok, asset, keys, now)
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

var errUnknown = errors.New("token not seen lately")

// remembered is what verify found lately, or errUnknown.
func (g *guard) remembered(tok, asset string) (token.Claims, string, error) {
	now := g.now()
	v, ok := g.tokens.get(tok)
	if !ok || v.keys != g.keys() || !now.Before(v.until) || !now.After(v.from) {
		return token.Claims{}, "", errUnknown
	}
	if v.claims.Asset != asset {
		return token.Claims{}, "", token.ErrForeign
	}
	return v.claims, v.kid, nil
}

type verifiedToken struct {
	claims      token.Claims
	kid         string
	keys        *token.KeySet // the set it was checked against
	from, until time.Time
}

// maxGeneration bounds each of the two generations of a map.
const maxGeneration = 16384

// generations is a bounded map: when the young generation is full it becomes the
// old one, so keys in use stay and the rest go, without bookkeeping per hit.
type generations[V any] struct {
	mu         sync.RWMutex
	young, old map[string]V
}

func (g *generations[V]) get(key string) (V, bool) {
	g.mu.RLock()
	v, ok := g.young[key]
	old := false
	if !ok {
		v, old = g.old[key]
	}
	g.mu.RUnlock()
	if old {
		g.put(key, v)
	}
	return v, ok || old
}

func (g *generations[V]) put(key string, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.young == nil || len(g.young) >= maxGeneration {
		g.old, g.young = g.young, make(map[string]V, 64)
	}
	g.young[strings.Clone(key)] = v // the key may be part of a whole request line
}
