package platform

import (
	"time"

	"github.com/meridian-video/meridian/internal/region"
)

// timing is what the stores wait for each other, from the round-trip times
// between the regions that hold quorum.
type timing struct {
	// etcdHeartbeat and etcdElection: a leader is missed after one to two elections.
	etcdHeartbeat, etcdElection time.Duration
	// Patroni: the leader's key lives for ttl; every loop renews it, and gives up
	// asking etcd after retry. ttl must leave room for a loop with two retries.
	patroniTTL, patroniLoop, patroniRetry time.Duration
	// postgresSilence ends replication connections on which nothing is heard.
	postgresSilence time.Duration
}

func timingFor(t *region.Table) timing {
	var rtt time.Duration
	sites := control(t)
	for _, a := range sites {
		for _, b := range sites {
			rtt = max(rtt, time.Duration(a.RTT[b.Name]))
		}
	}
	out := timing{
		// etcd asks for about a round trip, and for an election of
		// at least five heartbeats. The longer the election, the longer Patroni is
		// without etcd when the leaders of both lived in the region that was lost.
		etcdHeartbeat: max(100*time.Millisecond, rtt),
		etcdElection:  max(time.Second, 5*rtt),
		patroniLoop:   time.Second,
		// A question may need two round trips, and to be asked again.
		patroniRetry:    max(2*time.Second, (8 * rtt).Round(time.Second)),
		postgresSilence: max(3*time.Second, 10*rtt),
	}
	out.patroniTTL = out.patroniLoop + 2*out.patroniRetry + time.Second
	return out
}
