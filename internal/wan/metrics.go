package wan

import (
	"github.com/prometheus/client_golang/prometheus"
)

// counts of one link.
type counts struct {
	packets, bytes                  uint64
	silent, lost, overflow, refused uint64
}

// rejects of one node: packets that entered no link.
type rejects struct {
	noRoute, wrongSource, malformed uint64
}

// LinkStats is what one direction between two nodes has carried.
type LinkStats struct {
	From, To string
	// Link as it is now; Silent also when one of the nodes is.
	Link Link
	// Packets and Bytes delivered.
	Packets, Bytes uint64
	// Dropped packets by reason: "silent", "lost", "overflow" (queue or rate),
	// "refused" (by the receiving device).
	Dropped map[string]uint64
	// QueueBytes is the memory of packets on their way.
	QueueBytes int64
}

// NodeStats is what a node sent that entered no link.
type NodeStats struct {
	Name string
	// Rejected packets by reason: "no_route", "wrong_source", "malformed".
	Rejected map[string]uint64
	// Unread packets: the kernel dropped them because the reader was late.
	Unread uint64
}

var (
	descPackets = prometheus.NewDesc("meridian_wan_packets_total", "Packets delivered.", []string{"from", "to"}, nil)
	descBytes   = prometheus.NewDesc("meridian_wan_bytes_total", "Bytes delivered.", []string{"from", "to"}, nil)
	descDropped = prometheus.NewDesc("meridian_wan_dropped_packets_total",
		"Packets dropped on the way: silent, lost, overflow or refused.", []string{"from", "to", "reason"}, nil)
	descQueue    = prometheus.NewDesc("meridian_wan_queue_bytes", "Memory of packets on their way.", []string{"from", "to"}, nil)
	descDelay    = prometheus.NewDesc("meridian_wan_delay_seconds", "Delay the link is set to.", []string{"from", "to"}, nil)
	descSilent   = prometheus.NewDesc("meridian_wan_silent_ratio", "1 when the link lets nothing through, else 0.", []string{"from", "to"}, nil)
	descRejected = prometheus.NewDesc("meridian_wan_rejected_packets_total",
		"Packets a node sent that belong to no link: no_route, wrong_source or malformed.", []string{"node", "reason"}, nil)
	descUnread = prometheus.NewDesc("meridian_wan_unread_packets_total",
		"Packets a node sent faster than they were read.", []string{"node"}, nil)
)

// Describe implements prometheus.Collector.
func (n *Network) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPackets, descBytes, descDropped, descQueue, descDelay, descSilent, descRejected, descUnread} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (n *Network) Collect(ch chan<- prometheus.Metric) {
	for _, s := range n.Links() {
		count := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{s.From, s.To}, labels...)...)
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.From, s.To)
		}
		count(descPackets, s.Packets)
		count(descBytes, s.Bytes)
		for reason, v := range s.Dropped {
			count(descDropped, v, reason)
		}
		gauge(descQueue, float64(s.QueueBytes))
		gauge(descDelay, s.Link.Delay.Seconds())
		silent := 0.0
		if s.Link.Silent {
			silent = 1
		}
		gauge(descSilent, silent)
	}
	nodes, err := n.Nodes()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descUnread, err)
	}
	for _, s := range nodes {
		for reason, v := range s.Rejected {
			ch <- prometheus.MustNewConstMetric(descRejected, prometheus.CounterValue, float64(v), s.Name, reason)
		}
		ch <- prometheus.MustNewConstMetric(descUnread, prometheus.CounterValue, float64(s.Unread), s.Name)
	}
}

func (l *link) stats(from, to string) LinkStats {
	c := &l.counts
	return LinkStats{From: from, To: to, Link: l.condition, Packets: c.packets, Bytes: c.bytes,
		Dropped:    map[string]uint64{"silent": c.silent, "lost": c.lost, "overflow": c.overflow, "refused": c.refused},
		QueueBytes: l.queueing}
}
