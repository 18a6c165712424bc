package wan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
)

// Network forwards packets between its nodes from New to Close. Its methods may
// be called concurrently.
type Network struct {
	cfg       Config
	buffers   *buffers
	forwarder *forwarder
	failed    chan error
	close     func() error
	// registered with cfg.Metrics, set before New returns.
	registered bool

	mu     sync.Mutex // serialises changes
	nodes  map[string]*node
	seeds  *rand.Rand
	closed bool
}

// node is a Node at work. The network's mutex guards all but what is the forwarder's.
type node struct {
	Node
	ownsNamespace bool
	device        *device
	links         map[string]*link // to the other nodes
	silentIn      bool
	silentOut     bool
	worse         Link // what comes on top of its links

	// The forwarder's.
	hops    []hop
	rejects rejects
}

// hop is where packets to a prefix go.
type hop struct {
	prefix netip.Prefix
	link   *link
}

// New makes the namespaces and devices of a network and starts to forward.
func New(cfg Config) (*Network, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("wide-area network: %w", err)
	}
	cfg.QueueBytes = cmp.Or(cfg.QueueBytes, DefaultQueueBytes)
	cfg.Seed = cmp.Or(cfg.Seed, rand.Uint64())
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{cfg: cfg, buffers: newBuffers(), failed: make(chan error, 1), nodes: map[string]*node{},
		seeds: rand.New(rand.NewPCG(cfg.Seed, 0))}
	forwarder, err := newForwarder(n.buffers, n.fail)
	if err != nil {
		return nil, fmt.Errorf("wide-area network: %w", err)
	}
	n.forwarder = forwarder
	n.close = sync.OnceValue(n.doClose)
	for _, node := range cfg.Nodes {
		if err := n.AddNode(node); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(n); err != nil {
			return nil, errors.Join(fmt.Errorf("wide-area network: %w", err), n.Close())
		}
		n.registered = true
	}
	cfg.Log.Info("wide-area network up", "nodes", len(cfg.Nodes), "prefix", cfg.Prefix, "seed", cfg.Seed)
	return n, nil
}

// Run waits until ctx ends or a device fails, and closes the network.
func (n *Network) Run(ctx context.Context) error {
	return errors.Join(n.Watch(ctx), n.Close())
}

// Watch waits until ctx ends, and returns nil, or a device fails. The network
// stays as it is.
func (n *Network) Watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.failed:
		return err
	}
}

// Close stops forwarding and removes the devices and the namespaces the network
// made, with every process in them. It may be called again.
func (n *Network) Close() error { return n.close() }

func (n *Network) doClose() error {
	// Unregister goes by name: without the check it would take another network's.
	if n.registered {
		n.cfg.Metrics.Unregister(n)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(n.nodes)) {
		errs = append(errs, n.remove(n.nodes[name]))
	}
	return errors.Join(append(errs, n.forwarder.close())...)
}

// AddNode adds a node while the network runs.
func (n *Network) AddNode(add Node) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("wide-area network: %w", ErrClosed)
	}
	var others []Node
	for _, o := range n.nodes {
		others = append(others, o.Node)
	}
	if err := add.validate(n.cfg.Prefix, others); err != nil {
		return fmt.Errorf("wide-area network: %w", err)
	}
	nd := &node{Node: add, links: map[string]*link{}, ownsNamespace: add.Namespace == nil}
	switch {
	case add.Host:
		nd.Namespace, err = OpenNamespace("/proc/self/ns/net")
	case nd.ownsNamespace:
		nd.Namespace, err = NewNamespace()
	}
	if err == nil {
		nd.device, err = attach(nd.Namespace, add.Host, n.cfg.Prefix, add.Addresses)
	}
	if err != nil {
		err = fmt.Errorf("wide-area network: node %q: %w", add.Name, err)
		if nd.ownsNamespace && nd.Namespace != nil {
			err = errors.Join(err, nd.Namespace.Close())
		}
		return err
	}
	for _, o := range n.nodes {
		n.connect(nd, o)
		n.connect(o, nd)
	}
	n.nodes[add.Name] = nd
	n.route()
	if err := n.forwarder.add(nd); err != nil {
		return errors.Join(fmt.Errorf("wide-area network: node %q: %w", add.Name, err), n.remove(nd))
	}
	return nil
}

// RemoveNode takes a node out of the network, with its device, and with its
// namespace if the network made it.
func (n *Network) RemoveNode(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	nd, err := n.node(name)
	if err != nil {
		return err
	}
	return n.remove(nd)
}

func (n *Network) remove(nd *node) error {
	delete(n.nodes, nd.Name)
	for _, o := range n.nodes {
		delete(o.links, nd.Name)
	}
	n.route()
	err := errors.Join(n.forwarder.remove(nd), nd.device.Close())
	if nd.ownsNamespace {
		err = errors.Join(err, nd.Namespace.Close())
	}
	if err != nil {
		return fmt.Errorf("wide-area network: remove node %q: %w", nd.Name, err)
	}
	return nil
}

// Namespace returns the namespace of a node.
func (n *Network) Namespace(name string) (*Namespace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nd, err := n.node(name)
	if err != nil {
		return nil, err
	}
	return nd.Namespace, nil
}

func (n *Network) node(name string) (*node, error) {
	nd, ok := n.nodes[name]
	if !ok {
		return nil, fmt.Errorf("wide-area network: %w: %q", ErrUnknownNode, name)
	}
	return nd, nil
}

// connect makes the link between two nodes.
func (n *Network) connect(from, to *node) {
	l := newLink(to.device, n.buffers, n.cfg.QueueBytes, [2]uint64{n.seeds.Uint64(), n.seeds.Uint64()})
	from.links[to.Name] = l
	n.apply(from, to, n.configured(from.Name, to.Name))
}

// route gives the forwarder the links, and every node its table of the others'
// prefixes.
func (n *Network) route() {
	n.forwarder.mu.Lock()
	defer n.forwarder.mu.Unlock()
	n.forwarder.links = nil
	for _, nd := range n.nodes {
		nd.hops = nil
		for name, l := range nd.links {
			n.forwarder.links = append(n.forwarder.links, l)
			for _, p := range n.nodes[name].Addresses {
				nd.hops = append(nd.hops, hop{p.Masked(), l})
			}
		}
	}
}

// link is the one a packet belongs on, or nil, counted.
func (nd *node) link(b []byte) *link {
	source, destination, ok := addresses(b)
	if !ok {
		nd.rejects.malformed++
		return nil
	}
	if !slices.ContainsFunc(nd.Addresses, func(p netip.Prefix) bool { return p.Contains(source) }) {
		nd.rejects.wrongSource++
		return nil
	}
	for _, h := range nd.hops {
		if h.prefix.Contains(destination) {
			return h.link
		}
	}
	nd.rejects.noRoute++
	return nil
}

// fail ends Run with the first failure.
func (n *Network) fail(err error) {
	n.cfg.Log.Error("wide-area network failed", "error", err)
	select {
	case n.failed <- err:
	default:
	}
}

// Links returns the state and counts of every link, ordered by name.
func (n *Network) Links() []LinkStats {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forwarder.mu.Lock()
	defer n.forwarder.mu.Unlock()
	var out []LinkStats
	for _, from := range slices.Sorted(maps.Keys(n.nodes)) {
		for _, to := range slices.Sorted(maps.Keys(n.nodes[from].links)) {
			out = append(out, n.nodes[from].links[to].stats(from, to))
		}
	}
	return out
}

// Nodes returns what every node sent in vain, ordered by name.
func (n *Network) Nodes() ([]NodeStats, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []NodeStats
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(n.nodes)) {
		nd := n.nodes[name]
		unread, err := nd.unread()
		errs = append(errs, err)
		n.forwarder.mu.Lock()
		rejects := nd.rejects
		n.forwarder.mu.Unlock()
		out = append(out, NodeStats{Name: name, Unread: unread, Rejected: map[string]uint64{
			"no_route": rejects.noRoute, "wrong_source": rejects.wrongSource, "malformed": rejects.malformed}})
	}
	return out, errors.Join(errs...)
}
