package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/drill/target"
)

const (
	// serverTimeout is how long one name server is waited for; one that didn't
	// answer is asked last for holdServer, as resolvers do.
	serverTimeout = 800 * time.Millisecond
	holdServer    = 10 * time.Second
	maxNames      = 1000
)

// resolver is the caching resolver of the viewers at one place.
type resolver struct {
	dial    target.Dial
	servers []string // host:port, the nearest first

	mu     sync.Mutex
	names  map[string]known
	failed map[string]time.Time
}

type known struct {
	list  []netip.Addr
	until time.Time
}

func newResolver(dial target.Dial, servers []string) *resolver {
	return &resolver{dial: dial, servers: servers, names: map[string]known{}, failed: map[string]time.Time{}}
}

// lookup returns a host's addresses in the order they were answered, from the
// cache while their TTL lasts. A literal address is its own.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	name := dns.CanonicalName(host)
	r.mu.Lock()
	k, ok := r.names[name]
	r.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return k.list, nil
	}
	var errs []error
	for _, server := range r.order() {
		found, ttl, err := query(ctx, r.dial, server, name)
		r.mu.Lock()
		if err == nil {
			delete(r.failed, server)
			if len(r.names) >= maxNames {
				clear(r.names)
			}
			r.names[name] = known{found, time.Now().Add(ttl)}
			r.mu.Unlock()
			return found, nil
		}
		r.failed[server] = time.Now()
		r.mu.Unlock()
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("resolve %s: %w", host, errors.Join(errs...))
}

// order lists the servers, those that failed lately last.
func (r *resolver) order() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var good, held []string
	for _, s := range r.servers {
		if t, ok := r.failed[s]; ok && time.Since(t) < holdServer {
			held = append(held, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, held...)
}

// query asks one server once for A records.
func query(ctx context.Context, dial target.Dial, server, name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	q := new(dns.Msg).SetQuestion(dns.CanonicalName(name), dns.TypeA)
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(q); err != nil {
		return nil, 0, fmt.Errorf("name server %s: %w", server, err)
	}
	answer, err := c.ReadMsg()
	if err != nil {
		return nil, 0, fmt.Errorf("name server %s: %w", server, err)
	}
	if answer.Id != q.Id || answer.Rcode != dns.RcodeSuccess {
		return nil, 0, fmt.Errorf("name server %s: %s", server, dns.RcodeToString[answer.Rcode])
	}
	var out []netip.Addr
	var ttl uint32
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			if addr, ok := netip.AddrFromSlice(a.A); ok {
				out, ttl = append(out, addr.Unmap()), a.Hdr.Ttl
			}
		}
	}
	if len(out) == 0 {
		return nil, 0, fmt.Errorf("name server %s: no address for %s", server, name)
	}
	return out, time.Duration(ttl) * time.Second, nil
}

// dialer connects from a viewer's address to a host, a name's addresses one
// after the other, as browsers do.
func dialer(dial target.Dial, r *resolver) func(ctx context.Context, network, hostport string) (net.Conn, error) {
	return func(ctx context.Context, network, hostport string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, err
		}
		list, err := r.lookup(ctx, host)
		if err != nil {
			return nil, err
		}
		var errs []error
		for _, a := range list {
			try, cancel := context.WithTimeout(ctx, connectTimeout)
			conn, err := dial(try, network, net.JoinHostPort(a.String(), port))
			cancel()
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}
