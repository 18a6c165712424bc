package viewers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// serverTimeout is how long one name server is waited for; one that didn't
	// answer is asked last for holdServer, as resolvers do.
	serverTimeout = 800 * time.Millisecond
	holdServer    = 10 * time.Second
	// maxNames bounds the cache.
	maxNames = 1000
)

// dialFunc connects from a viewer's address to a literal address.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// resolver is a caching resolver in front of a zone's name servers.
type resolver struct {
	dial    dialFunc
	servers []string // host:port, the nearest first

	mu     sync.Mutex
	names  map[string]addresses
	failed map[string]time.Time
}

type addresses struct {
	list  []netip.Addr
	until time.Time
}

func newResolver(dial dialFunc, servers []string) *resolver {
	return &resolver{dial: dial, servers: servers, names: map[string]addresses{}, failed: map[string]time.Time{}}
}

// lookup returns a host's addresses in the order they were answered, from the
// cache while their TTL lasts. A literal address is its own.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	name := dns.CanonicalName(host)
	r.mu.Lock()
	known, ok := r.names[name]
	r.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.list, nil
	}
	var errs []error
	for _, server := range r.order() {
		found, ttl, err := r.ask(ctx, server, name)
		r.mu.Lock()
		if err == nil {
			delete(r.failed, server)
			if len(r.names) >= maxNames {
				clear(r.names)
			}
			r.names[name] = addresses{found, time.Now().Add(ttl)}
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

// ask sends one question for A records to one server.
func (r *resolver) ask(ctx context.Context, server, name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	conn, err := r.dial(ctx, "udp", server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, 0, err
	}
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
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
