package wan

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// DefaultQueueBytes a link: a quarter of a second of half a gigabit.
const DefaultQueueBytes = 16 << 20

// Config of a Network.
type Config struct {
	// Prefix holds every address of the network. Nothing else is routed into it.
	Prefix netip.Prefix
	// Nodes at the start; AddNode adds more.
	Nodes []Node
	// Paths that aren't perfect, also to nodes added later. Heal returns to them.
	Paths []Path
	// QueueBytes bounds the packets on their way over one link, in memory they
	// take (2 or 64 KiB each); 0 is DefaultQueueBytes.
	QueueBytes int64
	// Seed makes loss and jitter repeatable; 0 draws one.
	Seed uint64
	// Log, optional.
	Log *slog.Logger
	// Metrics to register with, optional.
	Metrics prometheus.Registerer
}

// Node is one place in the network.
type Node struct {
	Name string
	// Addresses of the node, the first its default source. All of a prefix
	// shorter than an address is the node's (198.18.11.1/24: any of 256).
	Addresses []netip.Prefix
	// Namespace to use. Without one the network makes its own, which Namespace
	// returns and Close closes.
	Namespace *Namespace
	// Host puts the node in the namespace of this process instead.
	Host bool
}

// Path is the condition from one node to another.
type Path struct {
	From, To string
	Link     Link
}

// Both returns the two paths between a and b with the same condition.
func Both(a, b string, l Link) []Path { return []Path{{a, b, l}, {b, a, l}} }

// Validate returns every problem of the configuration, joined.
func (c Config) Validate() error {
	var errs []error
	if !c.Prefix.IsValid() || !c.Prefix.Addr().Is4() {
		errs = append(errs, fmt.Errorf("prefix %v: want an IPv4 prefix", c.Prefix))
	}
	if c.QueueBytes != 0 && c.QueueBytes < largeBuffer {
		errs = append(errs, fmt.Errorf("queue of %d bytes: want at least one packet (%d)", c.QueueBytes, largeBuffer))
	}
	for i, n := range c.Nodes {
		errs = append(errs, n.validate(c.Prefix, c.Nodes[:i]))
	}
	seen := map[[2]string]bool{}
	for _, p := range c.Paths {
		at := fmt.Sprintf("path %s to %s", p.From, p.To)
		if p.From == p.To || p.From == "" || p.To == "" {
			errs = append(errs, fmt.Errorf("%s: want two nodes", at))
		}
		if seen[[2]string{p.From, p.To}] {
			errs = append(errs, fmt.Errorf("%s: given twice", at))
		}
		seen[[2]string{p.From, p.To}] = true
		if err := p.Link.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// validate checks a node against the network and those before it.
func (n Node) validate(network netip.Prefix, others []Node) error {
	var errs []error
	bad := func(format string, a ...any) {
		errs = append(errs, fmt.Errorf("node %q: "+format, append([]any{n.Name}, a...)...))
	}
	if n.Name == "" {
		bad("want a name")
	}
	if len(n.Addresses) == 0 {
		bad("want an address")
	}
	if n.Host && n.Namespace != nil {
		bad("want either Host or Namespace")
	}
	for i, p := range n.Addresses {
		if !p.IsValid() || !network.Contains(p.Addr()) || p.Bits() <= network.Bits() {
			bad("address %v: want one within %v", p, network)
			continue
		}
		if slices.ContainsFunc(n.Addresses[:i], p.Overlaps) {
			bad("address %v: given twice", p)
		}
	}
	for _, o := range others {
		if o.Name == n.Name {
			bad("name used twice")
		}
		if o.Host && n.Host {
			bad("%q is the host already", o.Name)
		}
		for _, p := range n.Addresses {
			if slices.ContainsFunc(o.Addresses, p.Overlaps) {
				bad("address %v: belongs to %q", p, o.Name)
			}
		}
	}
	return errors.Join(errs...)
}
