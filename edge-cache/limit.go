package edgecache

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

// inflight bounds how much is under way for each of many. Its size is that of
// what is under way.
type inflight[K comparable] struct {
	most int // 0: no bound

	mu sync.Mutex
	n  map[K]int
}

func newInflight[K comparable](most int) *inflight[K] {
	return &inflight[K]{most: most, n: map[K]int{}}
}

// enter reports whether there is room for one more of k, which leave ends.
func (f *inflight[K]) enter(k K) bool {
	if f.most == 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n[k] >= f.most {
		return false
	}
	f.n[k]++
	return true
}

func (f *inflight[K]) leave(k K) {
	if f.most == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n[k]--; f.n[k] <= 0 {
		delete(f.n, k)
	}
}

// count is how much of k is under way.
func (f *inflight[K]) count(k K) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n[k]
}

// clientOf is who asks, as far as an address tells: an IPv4 address, or the /64 of
// an IPv6 one, of which a subscriber has all.
func clientOf(remote string) netip.Addr {
	p, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return clientAt(p)
}

// addrPortOf is a TCP or UDP address.
func addrPortOf(a net.Addr) netip.AddrPort {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return p
}

func clientAt(p netip.AddrPort) netip.Addr {
	a := p.Addr().Unmap().WithZone("")
	if a.Is6() {
		if n, err := a.Prefix(64); err == nil {
			return n.Addr()
		}
	}
	return a
}

// limits bound what one client, or the viewers of one asset, can make the edge
// fetch at once. What is here already, and who waits for a fetch that another
// began, isn't bounded.
type limits struct {
	clients *inflight[netip.Addr]
	assets  *inflight[string]

	mu      sync.Mutex
	lookups map[lookup]int // requests that wait for each
}

// lookup of an asset's record for a client.
type lookup struct {
	client netip.Addr
	asset  string
}

func newLimits(perClient, perAsset int) *limits {
	return &limits{clients: newInflight[netip.Addr](perClient), assets: newInflight[string](perAsset), lookups: map[lookup]int{}}
}

// look bounds the assets looked up for one client as its fetches are, however
// many requests wait for one.
func (l *limits) look(client netip.Addr, asset string) (free func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := lookup{client, asset}
	if l.lookups[k] == 0 && !l.clients.enter(client) {
		return nil, errTooMany
	}
	l.lookups[k]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.lookups[k]--; l.lookups[k] == 0 {
			delete(l.lookups, k)
			l.clients.leave(client)
		}
	}, nil
}

// bound is src under the limits of the one who asks first and of the asset.
// client may be zero: the edge asks by itself.
func (l *limits) bound(src cache.Source, client netip.Addr, asset string) cache.Source {
	return func(ctx context.Context, offset int64) (io.ReadCloser, cache.Info, error) {
		free, err := l.enter(client, asset)
		if err != nil {
			return nil, cache.Info{}, err
		}
		body, info, err := src(ctx, offset)
		if err != nil {
			free()
			return nil, info, err
		}
		return &boundBody{ReadCloser: body, free: free}, info, nil
	}
}

func (l *limits) enter(client netip.Addr, asset string) (free func(), err error) {
	if client.IsValid() && !l.clients.enter(client) {
		return nil, errTooMany
	}
	if asset != "" && !l.assets.enter(asset) {
		if client.IsValid() {
			l.clients.leave(client)
		}
		return nil, errBusy
	}
	return sync.OnceFunc(func() {
		if client.IsValid() {
			l.clients.leave(client)
		}
		if asset != "" {
			l.assets.leave(asset)
		}
	}), nil
}

type boundBody struct {
	io.ReadCloser
	free func()
}

// Reject implements cache.Rejecter.
func (b *boundBody) Reject() {
	if r, ok := b.ReadCloser.(cache.Rejecter); ok {
		r.Reject()
	}
	b.free() // the second reading counts in place of the first
}

func (b *boundBody) Close() error {
	defer b.free()
	return b.ReadCloser.Close()
}
