package operate

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/tools"
)

// users begin to watch, and creators write, again and again.
type users struct {
	mu       sync.Mutex
	opened   int
	unopened []string
	written  int
	// longest is the longest time without a successful write.
	longest time.Duration
}

// watch opens sessions at routers until one answers, as players do.
func (u *users) watch(ctx context.Context, regions []region.Region, asset string) {
	for ctx.Err() == nil {
		var failures []string
		ok := false
		for _, r := range regions {
			status, err := begins(ctx, r, asset, "-")
			if ok = err == nil && status == http.StatusOK; ok {
				break
			}
			failures = append(failures, fmt.Sprintf("%s %d %v", r.Name, status, err))
		}
		if ctx.Err() != nil {
			return
		}
		u.mu.Lock()
		u.opened++
		if !ok {
			u.unopened = append(u.unopened, strings.Join(failures, ", "))
		}
		u.mu.Unlock()
		pause(ctx, 100*time.Millisecond)
	}
}

// write changes a title at whichever api answers.
func (u *users) write(ctx context.Context, regions []region.Region, asset, key string) {
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		ok := false
		for _, r := range regions {
			if ok = renames(ctx, r, asset, key, fmt.Sprintf("Take %d", n)) == nil; ok {
				break
			}
		}
		u.mu.Lock()
		u.longest = max(u.longest, time.Since(last))
		if ok {
			u.written++
			last = time.Now()
		}
		u.mu.Unlock()
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func renames(ctx context.Context, r region.Region, asset, key, title string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, r.API+"/v1/assets/"+asset, strings.NewReader(`{"title": "`+title+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", r.Name, resp.Status)
	}
	return nil
}

// meanwhile runs users until the function returned is called, and requires that
// every session opened and that no outage of writes was longer than promised.
func (o *operator) meanwhile(asset string) func() *users {
	u := &users{}
	ctx, cancel := context.WithCancel(o.t.Context())
	var using sync.WaitGroup
	regions := slices.Clone(o.Table.Regions)
	using.Go(func() { u.watch(ctx, regions, asset) })
	using.Go(func() { u.write(ctx, regions, asset, o.Key) })
	stop := sync.OnceFunc(func() { cancel(); using.Wait() })
	o.t.Cleanup(stop)
	return func() *users {
		stop()
		require.Empty(o.t, u.unopened, "sessions that no router and edge took")
		require.Greater(o.t, u.opened, 10)
		require.Greater(o.t, u.written, 10)
		require.LessOrEqual(o.t, u.longest, 15*time.Second, "without a write")
		return u
	}
}

const nextVersion = "9.9.9-test"

func TestUpgradeRegionAfterRegion(t *testing.T) {
	o := newOperator(t, "upgrade.md")
	asset := o.upload(50)
	end := o.meanwhile(asset)
	// The new program, where the old one is.
	build := exec.Command("go", "build", "-ldflags", "-X github.com/meridian-video/meridian/internal/cli.version="+nextVersion, "-o", o.Bin+".new", "github.com/meridian-video/meridian")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.Rename(o.Bin+".new", o.Bin))
	document := o.document
	for _, r := range o.Table.Names() {
		o.document = nil
		for _, line := range document {
			o.document = append(o.document, strings.ReplaceAll(line, " us", " "+r))
		}
		o.runs("bin/meridian geodns drain")
		o.runs("bin/meridian region stop")
		o.runs("bin/meridian region start")
		o.runs("bin/meridian geodns undrain")
		require.Empty(t, o.document)
	}
	u := end()
	testenv.Figure(t, "three regions upgraded: sessions begun without a failure", "%d; %d writes, the longest time without one %.1f s", u.opened, u.written, u.longest.Seconds())
	for _, p := range o.Processes(func(p stack.Process) bool {
		return p.Is("api") || p.Is("encoder") || p.Is("geodns") || p.Is("edge-cache")
	}) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		require.NoError(t, err)
		require.Equal(t, o.Bin, exe, "%v runs the old program", p.Args)
	}
	o.plays(o.upload(25), 25)
}

// A region that only serves is added to three that run, and taken away.
func TestAddARegion(t *testing.T) {
	o := newOperator(t, "add-region.md")
	asset := o.upload(50)
	require.Contains(t, o.runs("bin/meridian keys rotate session --region sa"), "session-sa-1")
	own := o.Table
	wider, sa := withSouthAmerica(t, own)
	path := filepath.Join(o.State(), "regions.yaml")
	narrow, err := os.ReadFile(path)
	require.NoError(t, err)
	wide, err := wider.Marshal()
	require.NoError(t, err)

	end := o.meanwhile(asset)
	dir := filepath.Join(o.Dir, "sa")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "spool"), 0o755))
	table := filepath.Join(dir, "regions.yaml")
	require.NoError(t, os.WriteFile(table, wide, 0o600))
	o.starts(dir, table, sa)
	o.Table = wider
	eventually(t, time.Minute, func() error { return ready(t.Context(), sa.Router.URL) })

	// The others learn of it, one after another.
	require.NoError(t, os.WriteFile(path, wide, 0o644))
	for _, r := range own.Names() {
		o.restartsDrained(r)
	}
	took := time.Now()
	require.Contains(t, o.reconciles(o.does("bin/meridian reconcile")), "sa ")
	testenv.Figure(t, "region added: it has every object", "%.1f s after the others knew it", time.Since(took).Seconds())
	o.plays(asset, 50)
	require.Contains(t, o.redirect("eu", asset), "sa-1", "viewers are offered its edge")
	require.Equal(t, 50, stack.Frames(t, sa.Edges[0].URL+"/v/-/"+asset+"/master.m3u8?p=sa-1"), "frames from its edge")
	// Its record is in two of four regions at first; an edge whose own lacks it gives
	// the others 300 ms, which a busy machine may exceed.
	next := o.upload(25)
	o.answers(http.StatusOK, next, "-")
	o.plays(next, 25)

	// And away again.
	o.runs("bin/meridian geodns drain sa")
	require.Empty(t, o.document)
	o.Table = own
	require.NoError(t, os.WriteFile(path, narrow, 0o644))
	for _, r := range own.Names() {
		o.restartsDrained(r)
	}
	o.reconciles(o.Bin + " reconcile --config " + o.config())
	o.plays(asset, 50)
	end()
}

// restartsDrained restarts a region as an upgrade does.
func (o *operator) restartsDrained(name string) {
	o.t.Helper()
	for _, line := range []string{"geodns drain " + name + " --config " + o.config(), "region stop " + name, "region start " + name, "geodns undrain " + name + " --config " + o.config()} {
		out, err := o.shell(o.Bin + " " + line)
		require.NoError(o.t, err, out)
	}
}

// redirect is where a region's router sends a viewer.
func (o *operator) redirect(name, asset string) string {
	o.t.Helper()
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 5 * time.Second}
	resp, err := c.Get(o.Region(name).Router.URL + "/v/-/" + asset + "/master.m3u8")
	require.NoError(o.t, err)
	resp.Body.Close()
	return resp.Header.Get("Location")
}

func ready(ctx context.Context, router string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, router+"/map/state", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return nil
}

// withSouthAmerica is a table with one region more, on the addresses after the others'.
func withSouthAmerica(t *testing.T, own *region.Table) (*region.Table, region.Region) {
	t.Helper()
	b, err := own.Marshal()
	require.NoError(t, err)
	wider, err := region.Parse(b)
	require.NoError(t, err)
	const host = "127.64.0.1"
	sa := region.Region{Name: "sa", Place: "São Paulo", Latitude: -23.55, Longitude: -46.63,
		API: "http://" + host + ":8080", Router: region.Router{URL: "http://" + host + ":8081", DNS: host + ":5353"},
		Edges: []region.Edge{{Name: "sa-1", URL: "http://" + host + ":8082", Addresses: []netip.Addr{netip.MustParseAddr(host)}}},
		S3:    "http://" + host + ":9000", NATS: "nats://" + host + ":4222", RTT: map[string]region.Duration{}}
	for i, ms := range []int{190, 115, 320} {
		d := region.Duration(time.Duration(ms) * time.Millisecond)
		sa.RTT[wider.Regions[i].Name] = d
		wider.Regions[i].RTT["sa"] = d
	}
	wider.Regions = append(wider.Regions, sa)
	require.NoError(t, wider.Validate())
	return wider, sa
}

// starts runs the added region's object store and services until the test ends.
func (o *operator) starts(dir, table string, r region.Region) {
	t := o.t
	t.Helper()
	secret, err := o.Secret("s3.secret")
	require.NoError(t, err)
	host := r.Edges[0].Addresses[0].String()
	minio, err := tools.Path("minio")
	require.NoError(t, err)
	secrets := filepath.Join(o.State(), "secrets")
	common := []string{"MERIDIAN_REGIONS=" + table, "MERIDIAN_REGION=sa", "MERIDIAN_S3_ACCESS_KEY=meridian", "MERIDIAN_S3_SECRET_KEY=@" + secrets + "/s3.secret",
		"MERIDIAN_ROOT_PUBLIC_KEY=@" + secrets + "/root.pub", "MERIDIAN_GEO_DATABASE=" + filepath.Join(o.State(), "geo", "dev.mmdb")}
	run := func(name string, argv []string, env ...string) {
		t.Helper()
		log, err := os.Create(filepath.Join(dir, name+".log"))
		require.NoError(t, err)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
		cmd.Env = append(append(os.Environ(), common...), env...)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Signal(os.Interrupt)
			killer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
			defer killer.Stop()
			_ = cmd.Wait() // how a process that was told to end does it doesn't matter here
			if t.Failed() {
				b, _ := os.ReadFile(log.Name())
				t.Logf("%s:\n%s", name, b[max(0, len(b)-4000):])
			}
			log.Close()
		})
	}
	run("minio", []string{minio, "server", "--quiet", "--certs-dir", filepath.Join(dir, "certs"), "--address", host + ":9000", filepath.Join(dir, "minio")},
		"MINIO_ROOT_USER=meridian", "MINIO_ROOT_PASSWORD="+secret, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	run("api", []string{o.Bin, "api"}, "MERIDIAN_ADMIN_LISTEN="+host+":9080", "MERIDIAN_API_LISTEN="+host+":8080",
		"MERIDIAN_POSTGRES_PASSWORD=@"+secrets+"/postgres.secret", "PGSSLMODE=disable",
		"MERIDIAN_RECORD_KEY=@"+secrets+"/record.key", "MERIDIAN_PLAYBACK_KEY=@"+secrets+"/playback.key")
	run("geodns", []string{o.Bin, "geodns"}, "MERIDIAN_ADMIN_LISTEN="+host+":9081", "MERIDIAN_ROUTER_LISTEN="+host+":8081", "MERIDIAN_DNS_LISTEN="+r.Router.DNS)
	run("edge", []string{o.Bin, "edge-cache"}, "MERIDIAN_ADMIN_LISTEN="+host+":9082", "MERIDIAN_EDGE=sa-1", "MERIDIAN_EDGE_LISTEN="+host+":8082",
		"MERIDIAN_EDGE_CACHE_DIR="+filepath.Join(dir, "cache"), "MERIDIAN_SESSION_KEY=@"+secrets+"/session-sa.key")
}
