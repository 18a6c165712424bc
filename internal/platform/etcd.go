package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/ask"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/tools"
)

// maxMembers bounds what is read of a list of members.
const maxMembers = 64 << 10

func (p *plan) etcd(r region.Region) (supervise.Spec, error) {
	bin, err := tools.System("etcd")
	if err != nil {
		return supervise.Spec{}, err
	}
	var cluster []string
	for _, c := range control(p.table) {
		cluster = append(cluster, c.Name+"="+etcdPeer(c))
	}
	wait := timingFor(p.table)
	millis := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	client, peer := etcdClient(r), etcdPeer(r)
	dir := p.state.path(r.Name, procEtcd)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return supervise.Spec{}, err
	}
	state := "new"
	var after func(context.Context) error
	again, err := p.lostEtcd(r)
	if err != nil {
		return supervise.Spec{}, err
	}
	if again {
		state, after = "existing", func(ctx context.Context) error { return p.joinEtcd(ctx, r) }
	}
	return supervise.Spec{
		Name: procEtcd,
		Argv: []string{bin, "--name", r.Name, "--data-dir", dir,
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", "meridian", "--initial-cluster-state", state,
			"--heartbeat-interval", millis(wait.etcdHeartbeat), "--election-timeout", millis(wait.etcdElection),
			// A member that comes back asks before it disturbs the others with an election.
			"--pre-vote",
			// Ten commits a second of the copy that the log can rebuild are an idle
			// member's most work.
			"--backend-batch-interval", "1s",
			"--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h",
			"--logger", "zap", "--log-level", "warn"},
		Env:   []string{p.oneShare()},
		Grace: 5 * time.Second,
		Ready: etcdReady(r),
		After: after,
	}, nil
}

func etcdClient(r region.Region) string { return "http://" + at(r, portEtcdClient) }
func etcdPeer(r region.Region) string   { return "http://" + at(r, portEtcdPeer) }

// etcdReady asks whether the region's etcd has a leader and a majority.
func etcdReady(r region.Region) func(context.Context) error {
	return httpReady(etcdClient(r)+"/health", http.StatusOK, `"true"`)
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (p *plan) hasEtcd(r region.Region) (bool, error) {
	return exists(p.state.path(r.Name, procEtcd, "member"))
}

// lostEtcd reports whether the data of a region's member are gone, with its disk, while
// another region has its own, and a database, which etcd's majority had allowed. The
// member it was can't come back: it would vote anew on what it had voted on.
func (p *plan) lostEtcd(r region.Region) (bool, error) {
	if own, err := p.hasEtcd(r); err != nil || own {
		return false, err
	}
	for _, other := range control(p.table) {
		member, err := p.hasEtcd(other)
		if err != nil {
			return false, err
		}
		database, err := exists(p.state.path(other.Name, procPostgres, "data", "PG_VERSION"))
		if err != nil || member && database {
			return err == nil, err
		}
	}
	return false, nil
}

// joinEtcd has the other members take a region's in anew, once they have a majority,
// unless it has begun to be that.
func (p *plan) joinEtcd(ctx context.Context, r region.Region) error {
	if own, err := p.hasEtcd(r); err != nil || own {
		return err
	}
	err := errors.New("etcd has no other members")
	for _, other := range p.table.Nearest(r.Name) {
		if other.Name == r.Name || !other.Control {
			continue
		}
		if err = replaceMember(ctx, etcdClient(other), etcdPeer(r)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the others don't take in a member without data: %w", err)
}

// replaceMember has an etcd member replace the one at a peer address by one that has
// yet to start.
func replaceMember(ctx context.Context, client, peer string) error {
	var list struct {
		Members []struct {
			ID       string   `json:"ID"`
			Name     string   `json:"name"`
			PeerURLs []string `json:"peerURLs"`
		} `json:"members"`
	}
	if err := askEtcd(ctx, client+"/v3/cluster/member/list", obj{}, &list); err != nil {
		return err
	}
	for _, m := range list.Members {
		if !slices.Contains(m.PeerURLs, peer) {
			continue
		}
		if m.Name == "" {
			return nil // it has a name once it has started
		}
		if err := askEtcd(ctx, client+"/v3/cluster/member/remove", obj{"ID": m.ID}, nil); err != nil {
			return err
		}
	}
	return askEtcd(ctx, client+"/v3/cluster/member/add", obj{"peerURLs": []string{peer}}, nil)
}

// askEtcd asks by etcd's JSON gateway; answer may be nil.
func askEtcd(ctx context.Context, url string, question, answer any) error {
	b, err := json.Marshal(question)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, b, err := ask.Do(req, maxMembers)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, res.Status, bytes.TrimSpace(b))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
