package wan

import "fmt"

// Direction of a node's traffic, seen from the node.
type Direction int

const (
	// Inbound packets are sent to the node.
	Inbound Direction = 1 << iota
	// Outbound packets are sent by the node.
	Outbound
	// BothWays is Inbound and Outbound.
	BothWays = Inbound | Outbound
)

// SetLink changes the condition from one node to another until Heal, or until
// the network ends. The other direction stays as it is.
func (n *Network) SetLink(from, to string, l Link) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("wide-area network: link %s to %s: %w", from, to, err)
	}
	return n.change(from, to, func(Link) Link { return l })
}

// Cut silences one direction between two nodes.
func (n *Network) Cut(from, to string) error {
	return n.change(from, to, func(l Link) Link { l.Silent = true; return l })
}

func (n *Network) change(from, to string, edit func(Link) Link) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, err := n.node(from)
	if err != nil {
		return err
	}
	t, err := n.node(to)
	if err != nil {
		return err
	}
	if f == t {
		return fmt.Errorf("wide-area network: link %s to %s: want two nodes", from, to)
	}
	n.apply(f, t, edit(f.links[to].wanted))
	n.cfg.Log.Info("link changed", "from", from, "to", to, "link", f.links[to].wanted)
	return nil
}

// Silence lets nothing to or from a node through, besides what is silent already.
func (n *Network) Silence(name string, d Direction) error {
	if d&BothWays == 0 || d&^BothWays != 0 {
		return fmt.Errorf("wide-area network: silence %s: no direction %d", name, d)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nd, err := n.node(name)
	if err != nil {
		return err
	}
	nd.silentIn = nd.silentIn || d&Inbound != 0
	nd.silentOut = nd.silentOut || d&Outbound != 0
	n.each(nd, func(from, to *node) { n.apply(from, to, from.links[to.Name].wanted) })
	n.cfg.Log.Info("node silenced", "node", name, "inbound", nd.silentIn, "outbound", nd.silentOut)
	return nil
}

// Worsen adds to the condition of everything to and from a node, until Heal: its
// delay, jitter and loss come on top, and its rate is the most there is. What is
// silent stays so.
func (n *Network) Worsen(name string, by Link) error {
	if err := by.Validate(); err != nil {
		return fmt.Errorf("wide-area network: worsen %s: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nd, err := n.node(name)
	if err != nil {
		return err
	}
	nd.worse = by
	n.each(nd, func(from, to *node) { n.apply(from, to, from.links[to.Name].wanted) })
	n.cfg.Log.Info("node worsened", "node", name, "by", by)
	return nil
}

// Heal returns the named nodes and all links to and from them to the
// configuration; without names everything.
func (n *Network) Heal(names ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var heal []*node
	for _, name := range names {
		nd, err := n.node(name)
		if err != nil {
			return err
		}
		heal = append(heal, nd)
	}
	if len(names) == 0 {
		for _, nd := range n.nodes {
			heal = append(heal, nd)
		}
	}
	for _, nd := range heal {
		nd.silentIn, nd.silentOut, nd.worse = false, false, Link{}
	}
	for _, nd := range heal {
		n.each(nd, func(from, to *node) { n.apply(from, to, n.configured(from.Name, to.Name)) })
	}
	n.cfg.Log.Info("network healed", "nodes", names)
	return nil
}

// each calls fn for all links from and to a node.
func (n *Network) each(nd *node, fn func(from, to *node)) {
	for name := range nd.links {
		fn(nd, n.nodes[name])
		fn(n.nodes[name], nd)
	}
}

// apply sets what a link should be, and from that and what befell the nodes what it is.
func (n *Network) apply(from, to *node, l Link) {
	link := from.links[to.Name]
	link.wanted = l
	l = l.worse(from.worse).worse(to.worse)
	l.Silent = l.Silent || from.silentOut || to.silentIn
	// Between two packets: what is silent from now on doesn't arrive any more, also
	// if it is on its way.
	n.forwarder.change(link, l)
}

// configured is the condition Heal returns to.
func (n *Network) configured(from, to string) Link {
	for _, p := range n.cfg.Paths {
		if p.From == from && p.To == to {
			return p.Link
		}
	}
	return Link{}
}
