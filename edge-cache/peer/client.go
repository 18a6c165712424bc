package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/origin"
)

const (
	// Wait is how long an edge that is asked may take to find out about an object;
	// patience is what the asker gives it, a round trip within the region more.
	Wait        = 200 * time.Millisecond
	patience    = 350 * time.Millisecond
	dialTimeout = 250 * time.Millisecond

	// Prefix of the paths edges ask each other, followed by the key below "streams/".
	Prefix = "/peer/"
	root   = "streams/"
)

// Header fields of an edge's answer to a peer.
const (
	SumField     = "Meridian-Sha256"
	FetchedField = "Meridian-Fetched" // Unix milliseconds
	OriginField  = "Meridian-Origin"
	LoadField    = "Meridian-Load"
)

// Edge is a peer to ask.
type Edge struct {
	Name string
	// URL is its base URL.
	URL string
}

// Peers are the other edges of a region. Close them after their Set.
type Peers struct {
	self    string
	ring    *ring
	key     Key
	client  *http.Transport
	origins map[string]*origin.Origin
}

// New returns the peers of the edge self; edges are all of the region, self
// included. They are added to set.
func New(self string, edges []Edge, key Key, set *origin.Set) *Peers {
	p := &Peers{self: self, key: key, origins: map[string]*origin.Origin{},
		client: &http.Transport{
			DialContext:     (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext,
			MaxConnsPerHost: 256, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: dialTimeout,
			DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		}}
	var names []string
	for _, e := range edges {
		names = append(names, e.Name)
	}
	p.ring = newRing(names)
	for i, e := range edges {
		if e.Name != self {
			m := p.ring.members[i]
			p.origins[e.Name] = set.Add(&origin.Origin{Name: "peer " + e.Name, Patience: patience,
				Open: func(ctx context.Context, key string, offset int64) (io.ReadCloser, cache.Info, error) {
					return p.open(ctx, m, e.URL, key, offset)
				}})
		}
	}
	return p
}

// Owner returns the peer to ask for the key, nil for the stores.
func (p *Peers) Owner(key string) *origin.Origin {
	if !strings.HasPrefix(key, root) {
		return nil
	}
	m := p.ring.choose(key, p.self, time.Now())
	if m == nil {
		return nil
	}
	return p.origins[m.name]
}

// Close drops idle connections.
func (p *Peers) Close() { p.client.CloseIdleConnections() }

func (p *Peers) open(ctx context.Context, m *member, base, key string, offset int64) (io.ReadCloser, cache.Info, error) {
	m.asking.Add(1)
	body, info, err := p.get(ctx, m, base, key, offset)
	if err != nil {
		m.asking.Add(-1)
		return nil, info, err
	}
	return &counted{ReadCloser: body, m: m}, info, nil
}

func (p *Peers) get(ctx context.Context, m *member, base, key string, offset int64) (io.ReadCloser, cache.Info, error) {
	path := Prefix + strings.TrimPrefix(key, root)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return nil, cache.Info{}, err
	}
	now := time.Now()
	req.Header.Set(ProofField, p.key.Prove(p.self, path, now))
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	res, err := p.client.RoundTrip(req)
	if err != nil {
		return nil, cache.Info{}, err
	}
	if l, err := strconv.ParseFloat(res.Header.Get(LoadField), 64); err == nil {
		m.tell(l, now)
	}
	info, err := infoOf(res, offset)
	if err != nil {
		return nil, info, errors.Join(err, res.Body.Close())
	}
	return res.Body, info, nil
}

// infoOf reads an answer's head.
func infoOf(res *http.Response, offset int64) (cache.Info, error) {
	var info cache.Info
	switch {
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone, res.StatusCode == http.StatusGatewayTimeout:
		return info, origin.ErrNotHere
	case offset == 0 && res.StatusCode == http.StatusOK:
		info.Size = res.ContentLength
	case offset > 0 && res.StatusCode == http.StatusPartialContent:
		cr := res.Header.Get("Content-Range")
		_, total, _ := strings.Cut(cr, "/")
		n, err := strconv.ParseInt(total, 10, 64)
		if err != nil || !strings.HasPrefix(cr, fmt.Sprintf("bytes %d-", offset)) {
			return info, fmt.Errorf("asked for bytes from %d, got %q", offset, cr)
		}
		info.Size = n
	default:
		return info, errors.New(res.Status)
	}
	h := res.Header
	info.ETag, info.SHA256, info.Origin, info.Peer = h.Get("Etag"), h.Get(SumField), h.Get(OriginField), true
	if len(info.SHA256) != 64 || info.ETag == "" {
		return info, errors.New("it doesn't say what the object is")
	}
	if ms, err := strconv.ParseInt(h.Get(FetchedField), 10, 64); err == nil {
		info.Fetched = time.UnixMilli(ms)
	}
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		info.Modified = t
	}
	return info, nil
}

// counted is a body that counts as asked for until it is closed.
type counted struct {
	io.ReadCloser
	m    *member
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.m.asking.Add(-1) })
	return c.ReadCloser.Close()
}

// Origins returns the peers as origins, by name.
func (p *Peers) Origins() []*origin.Origin {
	var out []*origin.Origin
	for _, name := range slices.Sorted(maps.Keys(p.origins)) {
		out = append(out, p.origins[name])
	}
	return out
}
