package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// LoadHeader is the header of a probe's answer in which an edge may say what
	// share of its capacity is in use ("0.42").
	LoadHeader = "Meridian-Load"
	userAgent  = "meridian-router"
	// healthObject is what a probe's answer holds, maxBody the most it may.
	healthObject = 64 << 10
	maxBody      = 1 << 20
	// lateBy is how much later than asked a timeout may fire before it says that
	// this process was starved rather than that the target is slow.
	lateBy = 300 * time.Millisecond
	// confirmAfter is the pause before a broken answer is checked again; waiting
	// for the next round would cost half a second of a killed edge's viewers.
	confirmAfter = 50 * time.Millisecond
)

// Target is something that is probed.
type Target struct {
	// Name is unique: an edge's name, or RouterName of a region.
	Name string
	// Region it stands in.
	Region string
	// URL that is fetched.
	URL string
	// Addr is dialled instead of resolving the URL's host, because the name may
	// be one this router itself answers for. Optional.
	Addr netip.Addr
}

// RouterName is the target name of a region's router. Edges are DNS labels, so
// the two never meet.
func RouterName(region string) string { return "router." + region }

// observation is one probe's result on its way to the owner.
type observation struct {
	target  int
	outcome outcome
	why     string
	load    float64
	began   time.Time
	took    time.Duration // from when it had its connection
}

// dial connects to a host and port.
type dial func(ctx context.Context, network, hostport string) (net.Conn, error)

// newDial returns a dial to the targets' addresses, where they have one.
func newDial(targets []Target, timeout time.Duration) dial {
	addrs := map[string]netip.Addr{}
	for _, t := range targets {
		if u, err := url.Parse(t.URL); err == nil && t.Addr.IsValid() {
			addrs[u.Hostname()] = t.Addr
		}
	}
	d := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	return func(ctx context.Context, network, hostport string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(hostport); err == nil {
			if a, ok := addrs[host]; ok {
				hostport = net.JoinHostPort(a.String(), port)
			}
		}
		return d.DialContext(ctx, network, hostport)
	}
}

// newClient returns a client whose kept connections serve all probes. Requests bring
// their own time limit.
func newClient(d dial, timeout time.Duration) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               nil, // a proxy's health is not the edge's
			DialContext:         d,
			MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4, IdleConnTimeout: time.Minute,
			// A health object in one or two reads.
			ReadBufferSize:     healthObject,
			DisableCompression: true, TLSHandshakeTimeout: timeout, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// probe asks a target once.
func (m *Monitor) probe(ctx context.Context, i int) observation {
	o := observation{target: i, began: time.Now()}
	limit := newPhases(ctx, m.opt.Timeout)
	defer limit.end()
	o.outcome, o.why, o.load = m.fetch(limit.ctx, m.targets[i])
	o.took = limit.passed()
	if ctx.Err() != nil || o.outcome == timedOut && o.took > m.opt.Timeout+lateBy {
		o.outcome = void
	}
	return o
}

// phases limits a request's time: that until it has a connection, and once more that
// from then on. Connecting to a region far away and sending an object there, over a
// connection that has yet to learn how fast it may, takes four round trips.
type phases struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
	began  atomic.Int64 // Unix nanoseconds of the current phase
}

func newPhases(ctx context.Context, limit time.Duration) *phases {
	p := &phases{limit: limit}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.began.Store(time.Now().UnixNano())
	p.timer = time.AfterFunc(limit, func() { p.cancel(context.DeadlineExceeded) })
	p.ctx = httptrace.WithClientTrace(p.ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		p.began.Store(time.Now().UnixNano())
		p.timer.Reset(limit)
	}})
	return p
}

// passed is how long the current phase has lasted.
func (p *phases) passed() time.Duration { return time.Duration(time.Now().UnixNano() - p.began.Load()) }

func (p *phases) end() {
	p.timer.Stop()
	p.cancel(nil)
}

func (m *Monitor) fetch(ctx context.Context, t Target) (outcome, string, float64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL, nil)
	if err != nil {
		return bad, "bad URL", 0
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := m.client.Do(req)
	if err != nil {
		o, why := classify(errors.Join(err, context.Cause(ctx)))
		return o, why, 0
	}
	defer res.Body.Close()
	// The whole body: an edge that can't deliver bytes is of no use, however
	// quickly its headers come.
	n, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		o, why := classify(errors.Join(err, context.Cause(ctx)))
		return o, why, 0
	case n > maxBody:
		return bad, "answer too large", 0
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent:
		return bad, fmt.Sprintf("status %d", res.StatusCode), 0
	case n == 0 && res.StatusCode == http.StatusOK:
		return bad, "empty answer", 0
	}
	load, err := strconv.ParseFloat(res.Header.Get(LoadHeader), 64)
	if err != nil || !(load >= 0 && load <= 10) {
		load = 0
	}
	return good, "", load
}

// probeLoop probes one target until ctx ends, and hands each observation to the owner.
func (m *Monitor) probeLoop(ctx context.Context, i int, out chan<- observation) {
	// Spread the targets over the interval.
	wait := m.opt.Interval * time.Duration(i) / time.Duration(len(m.targets))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	last := good
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		o := m.probe(ctx, i)
		select {
		case out <- o:
		case <-ctx.Done():
			return
		}
		next := m.opt.Interval - time.Since(start)
		if o.outcome == bad && last == good && m.wasUp(i) {
			next = confirmAfter
		}
		last = o.outcome
		timer.Reset(max(next, time.Millisecond))
	}
}
