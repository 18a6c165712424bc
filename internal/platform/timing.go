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
	// Patroni: the leader's key lives for ttl; every loop renews it, and its holder
	// steps down when that hasn't succeeded within retry.
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
		etcdHeartbeat:   max(100*time.Millisecond, rtt),
		etcdElection:    max(time.Second, 5*rtt),
		patroniLoop:     time.Second,
		postgresSilence: max(3*time.Second, 10*rtt),
	}
	// The loss of etcd's leader alone must not make PostgreSQL's step down: a
	// member waits up to two elections before it asks for votes, twice.
	out.patroniRetry = wholeSeconds(2*out.etcdElection + 2*rtt)
	// Patroni's documentation wants room for two retries, one to read and one to
	// renew. Reads come from the watched copy in memory; and a leader that thinks
	// too long that it is one can't commit: its synchronous standby has left it.
	out.patroniTTL = out.patroniLoop + out.patroniRetry + time.Second
	return out
}

func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
