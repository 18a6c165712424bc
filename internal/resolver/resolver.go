// Package resolver resolves names by a zone's own name servers, as a viewer's
// resolver does: the nearest server first, answers kept for their TTL, servers that
// failed asked last. Drills and tests look at routers from viewers' places with it.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// serverTimeout is how long one name server is waited for; one that didn't
	// answer is asked last for holdServer, as resolvers do.
	serverTimeout = 800 * time.Millisecond
	holdServer    = 10 * time.Second
	maxNames      = 1000
	// connectTimeout is how long one address is tried, as long as browsers wait.
	connectTimeout = 20 * time.Second
)

// Dial connects from a viewer's address to a literal address.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// From connects from an address of this process's own network.
func From(source netip.Addr) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: source.AsSlice()}}
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = &net.UDPAddr{IP: source.AsSlice()}
		}
		return d.DialContext(ctx, network, address)
	}
}

// Resolver is the caching resolver of the viewers at one place. It keeps at most a
// thousand names. Safe for concurrent use.
type Resolver struct {
	dial    Dial
	servers []string // host:port, the nearest first

	mu     sync.Mutex
	names  map[string]known
	failed map[string]time.Time
}

type known struct {
	list  []netip.Addr
	until time.Time
}

// New returns a resolver that asks servers ("host:port", the nearest first), connecting
// with dial.
func New(dial Dial, servers []string) *Resolver {
	return &Resolver{dial: dial, servers: servers, names: map[string]known{}, failed: map[string]time.Time{}}
}

// Lookup returns a host's addresses in the order they were answered, from the
// cache while their TTL lasts. A literal address is its own.
func (r *Resolver) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
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
		found, ttl, err := Query(ctx, r.dial, server, name)
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
func (r *Resolver) order() []string {
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

// Query asks one server once for A records, at most 800 ms long, and returns the
// addresses in the order they were answered, and their TTL.
func Query(ctx context.Context, dial Dial, server, name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	list, ttl, err := Exchange(ctx, conn, dial, new(dns.Msg).SetQuestion(dns.CanonicalName(name), dns.TypeA))
	if err != nil {
		return nil, 0, fmt.Errorf("name server %s: %w", server, err)
	}
	return list, ttl, nil
}

// Exchange asks a question for A records over a connection (UDP), again over one of
// its own (TCP) when the answer is truncated (RFC 7766, 5), and returns the addresses
// in the order they were answered, and their TTL. Answers to questions asked before
// are passed over. It ends with ctx, which must end.
func Exchange(ctx context.Context, conn net.Conn, dial Dial, q *dns.Msg) ([]netip.Addr, time.Duration, error) {
	answer, err := exchange(ctx, conn, q)
	if err == nil && answer.Truncated {
		var tcp net.Conn
		if tcp, err = dial(ctx, "tcp", conn.RemoteAddr().String()); err != nil {
			return nil, 0, err
		}
		defer tcp.Close()
		answer, err = exchange(ctx, tcp, q)
	}
	if err != nil {
		return nil, 0, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return nil, 0, errors.New(dns.RcodeToString[answer.Rcode])
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
		return nil, 0, fmt.Errorf("no address for %s", q.Question[0].Name)
	}
	return out, time.Duration(ttl) * time.Second, nil
}

func exchange(ctx context.Context, conn net.Conn, q *dns.Msg) (*dns.Msg, error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	// A moment long gone ends what waits.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := &dns.Conn{Conn: conn, UDPSize: dns.DefaultMsgSize}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		answer, err := c.ReadMsg()
		if err != nil || answer.Id == q.Id && answer.Response {
			return answer, err
		}
	}
}

// Dialer connects with dial, to the addresses of a host name one after the other,
// as browsers do.
func (r *Resolver) Dialer(dial Dial) Dial {
	return func(ctx context.Context, network, hostport string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, err
		}
		list, err := r.Lookup(ctx, host)
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
