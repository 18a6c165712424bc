package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	// backWithin is the longest a creator may wait for writes after the loss of a region.
	backWithin = 15 * time.Second
	testStream = "KEPT"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: isolated regions need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
}

// operate is `meridian region`.
func operate(t *testing.T, dir string, op operation, name string, args ...string) error {
	t.Helper()
	q := map[string][]string{}
	for i := 0; i+1 < len(args); i += 2 {
		q[args[i]] = []string{args[i+1]}
	}
	return controlClient{dir}.operate(t.Context(), op, name, q, func(text string) { t.Logf("%s %s: %s", op, name, text) })
}

func conditionOf(t *testing.T, dir, name string) RegionStatus {
	t.Helper()
	s, err := controlClient{dir}.status(t.Context())
	require.NoError(t, err)
	for _, r := range s.Regions {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no region %s in the status", name)
	return RegionStatus{}
}

// cluster is what tests ask of the running platform's stores.
type cluster struct {
	plan *plan
	dsn  string
}

func newCluster(t *testing.T, dir string) *cluster {
	table, err := region.Load(filepath.Join(dir, "regions.yaml"))
	require.NoError(t, err)
	sec, err := loadSecrets(filepath.Join(dir, "secrets"), table)
	require.NoError(t, err)
	return &cluster{plan: &plan{table: table, secrets: sec}, dsn: fmt.Sprintf(
		"postgres://%s:%s@%s/%s?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		dbUser, sec.database, table.PostgresDSNHosts("us"), dbName)}
}

func (c *cluster) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func (c *cluster) leader(t *testing.T) region.Region {
	t.Helper()
	var found region.Region
	require.Eventually(t, func() bool {
		var err error
		found, err = c.plan.oneLeader(t.Context())
		return err == nil
	}, 20*time.Second, 100*time.Millisecond, "PostgreSQL has no leader")
	return found
}

// until tries again and again and says how long it took.
func until(t *testing.T, within time.Duration, try func(context.Context) error) time.Duration {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return time.Since(begin)
		}
		if ctx.Err() != nil {
			t.Fatalf("not within %s: %v", 2*within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) jetStream(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(strings.Join(c.plan.table.NATSURLs("us"), ","), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// leadStream moves the leader of the stream to a region.
func leadStream(t *testing.T, nc *nats.Conn, js jetstream.JetStream, to string) {
	t.Helper()
	until(t, 20*time.Second, func(ctx context.Context) error {
		s, err := js.Stream(ctx, testStream)
		if err != nil {
			return err
		}
		if s.CachedInfo().Cluster.Leader == to {
			return nil
		}
		b, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": to}})
		if err != nil {
			return err
		}
		m, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+testStream, b)
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		return fmt.Errorf("%s leads, want %s: %s", s.CachedInfo().Cluster.Leader, to, m.Data)
	})
}

func TestIsolatedRegionsSurviveTheLossOfTheLeaders(t *testing.T) {
	needRoot(t)
	dir := stateDir(t)
	args := []string{"--isolated", "--network", "1", "--stores-only", "--state", dir, "--client-config", "none"}
	up := startUp(t, args...)
	begin := time.Now()
	up.saysWithin(t, "are ready after", startTimeout)
	testenv.Figure(t, "stores of three regions from nothing", "%.1f s", time.Since(begin).Seconds())

	c := newCluster(t, dir)
	require.NoError(t, c.exec(t.Context(), "CREATE TABLE kept (n int PRIMARY KEY)"))
	nc, js := c.jetStream(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: testStream, Subjects: []string{"kept"}, Replicas: 3})
	require.NoError(t, err)
	lost := c.leader(t)
	leadStream(t, nc, js, lost.Name)
	requireRefusals(t, dir, lost.Name)

	// Acknowledged writes, to be counted at the end.
	rows, messages := 0, 0
	write := func(ctx context.Context) error {
		err := c.exec(ctx, "INSERT INTO kept VALUES ($1) ON CONFLICT DO NOTHING", rows)
		if err == nil {
			rows++
		}
		return err
	}
	publish := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "kept", nil, jetstream.WithMsgID(fmt.Sprint(messages)), jetstream.WithRetryAttempts(0))
		if err == nil {
			messages++
		}
		return err
	}
	both := func() (wrote, published time.Duration) {
		var wg sync.WaitGroup
		wg.Go(func() { wrote = until(t, backWithin, write) })
		wg.Go(func() { published = until(t, backWithin, publish) })
		wg.Wait()
		return wrote, published
	}
	for range 3 {
		both()
	}

	// The two leaders that an election needs don't live together.
	until(t, 30*time.Second, func(ctx context.Context) error { return leadsNoEtcd(ctx, lost) })

	require.NoError(t, operate(t, dir, opKill, lost.Name))
	require.Empty(t, processesOf(t, dir, lost.Name), "processes of the killed region are left")
	requireRefused(t, lost)
	wrote, published := both()
	sayAgain(t, lost, "with both leaders killed", wrote, published)
	assert.LessOrEqual(t, wrote, backWithin)
	assert.LessOrEqual(t, published, backWithin)
	s := conditionOf(t, dir, lost.Name)
	require.Equal(t, Killed, s.Condition)
	require.Len(t, s.Processes, 4)
	for _, p := range s.Processes {
		require.Equal(t, supervise.Stopped, p.State)
		require.Zero(t, p.PID)
	}
	require.ErrorIs(t, operate(t, dir, opKill, lost.Name), &Error{Code: AlreadyKilled})

	require.NoError(t, os.WriteFile(filepath.Join(dir, lost.Name, procMinIO, "witness"), nil, 0o600))
	begin = time.Now()
	require.NoError(t, operate(t, dir, opStart, lost.Name, "wipe-objects", "true"))
	testenv.Figure(t, "stores of the killed region back", "%.1f s", time.Since(begin).Seconds())
	require.Equal(t, Up, conditionOf(t, dir, lost.Name).Condition)
	require.NoFileExists(t, filepath.Join(dir, lost.Name, procMinIO, "witness"))
	require.DirExists(t, filepath.Join(dir, lost.Name, procMinIO, bucket))
	both()

	hung := c.leader(t)
	hangAndResume(t, dir, hung, both)
	// It doesn't know yet that another leads; nor does its client.
	woken := wakes(t.Context(), c, hung, 3*time.Second)
	rejoined := func(r region.Region) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		how, err := c.plan.awaitRejoined(ctx, r)
		require.NoError(t, err)
		return fmt.Sprintf("%s after %.1f s", how, time.Since(begin).Seconds())
	}
	testenv.Figure(t, "PostgreSQL of the hung region again", "%s", rejoined(hung))
	require.Empty(t, woken, "a leader that was replaced while it hung acknowledged writes")
	if testenv.IsLong() {
		// The silent one leads: it must give up by itself, and follow when it is heard.
		silent := c.leader(t)
		silenceAndHeal(t, dir, silent, both)
		testenv.Figure(t, "PostgreSQL of the silent region again", "%s", rejoined(silent))
	}

	// Every acknowledged write is there, in the region that was lost too.
	local := strings.Replace(c.dsn, c.plan.table.PostgresDSNHosts("us"), lost.Postgres, 1)
	local = strings.Replace(local, "target_session_attrs=read-write", "target_session_attrs=any", 1)
	until(t, 20*time.Second, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, local)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM kept").Scan(&n); err != nil || n < rows {
			return fmt.Errorf("%d of %d rows: %w", n, rows, err)
		}
		return nil
	})
	stream, err := js.Stream(t.Context(), testStream)
	require.NoError(t, err)
	require.EqualValues(t, messages, stream.CachedInfo().State.Msgs, "messages are lost or doubled")

	// Nothing survives a platform that gets no chance to stop anything.
	nc.Close()
	require.NoError(t, up.Process.Kill())
	require.Error(t, up.endsWithin(t, 10*time.Second))
	requireNothingLeft(t, dir)
}

// leadsNoEtcd returns nil if the region's etcd follows another.
func leadsNoEtcd(ctx context.Context, r region.Region) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at(r, portEtcdClient)+"/v3/maintenance/status", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var s struct {
		Header struct {
			Member string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return err
	}
	if s.Leader == "" || s.Leader == "0" || s.Leader == s.Header.Member {
		return fmt.Errorf("etcd of %s is member %s, its leader is %q", r.Name, s.Header.Member, s.Leader)
	}
	return nil
}

// processesOf lists what works for a region, by mark, command and directory.
func processesOf(t *testing.T, dir, name string) []int {
	t.Helper()
	procs, err := supervise.Procs()
	require.NoError(t, err)
	var out []int
	for _, p := range procs {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.PID))
		marked := true
		for _, v := range supervise.Mark(dir, name) {
			marked = marked && strings.Contains("\x00"+string(env), "\x00"+v+"\x00")
		}
		own := filepath.Join(dir, name) + "/"
		if p.Alive() && (marked || strings.Contains(string(cmd), own) || strings.HasPrefix(cwd+"/", own)) {
			out = append(out, p.PID)
		}
	}
	return out
}

func requireRefused(t *testing.T, r region.Region) {
	t.Helper()
	for _, l := range listeners(r, false, false) {
		if l.network != "tcp" {
			continue
		}
		conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(t.Context(), "tcp", l.addr)
		if err == nil {
			conn.Close()
		}
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "%s at %s", l.owner, l.addr)
	}
}

func requireRefusals(t *testing.T, dir, name string) {
	t.Helper()
	for _, test := range []struct {
		op   operation
		name string
		args []string
		want Code
	}{
		{opKill, "mars", nil, UnknownRegion},
		{opStart, name, []string{"wipe-objects", "false"}, NotDown},
		{opStart, name, nil, BadRequest},
		{opResume, name, nil, NotHung},
		{opHeal, name, nil, NotSilent},
		{opSilence, name, []string{"direction", "up"}, BadRequest},
		{opSlow, name, nil, BadRequest},
		{opSlow, name, []string{"loss", "2"}, BadRequest},
		{opFill, name, nil, NoDisk},
		{opFree, name, nil, NotFull},
		{"explode", name, nil, BadRequest},
	} {
		require.ErrorIs(t, operate(t, dir, test.op, test.name, test.args...), &Error{Code: test.want}, "%s %s", test.op, test.name)
	}
}

func sayAgain(t *testing.T, lost region.Region, how string, wrote, published time.Duration) {
	t.Helper()
	testenv.Figure(t, "region "+how+" ("+lost.Name+")", "rows again after %.1f s, messages after %.1f s", wrote.Seconds(), published.Seconds())
}

func hangAndResume(t *testing.T, dir string, r region.Region, both func() (_, _ time.Duration)) {
	t.Helper()
	require.NoError(t, operate(t, dir, opHang, r.Name))
	require.Equal(t, Hung, conditionOf(t, dir, r.Name).Condition)
	require.ErrorIs(t, operate(t, dir, opHang, r.Name), &Error{Code: AlreadyHung})
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(t.Context(), "tcp", at(r, region.PortS3))
	require.NoError(t, err, "a hung region accepts")
	require.NoError(t, conn.Close())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorIs(t, httpReady(r.S3+"/", http.StatusForbidden, "")(ctx), context.DeadlineExceeded, "and never answers")
	wrote, published := both()
	sayAgain(t, r, "hung, PostgreSQL's leader there", wrote, published)
	assert.LessOrEqual(t, wrote, backWithin)
	require.NoError(t, operate(t, dir, opResume, r.Name))
	until(t, 10*time.Second, httpReady(r.S3+"/", http.StatusForbidden, ""))
}

func silenceAndHeal(t *testing.T, dir string, r region.Region, both func() (_, _ time.Duration)) {
	t.Helper()
	st, err := controlClient{dir}.status(t.Context())
	require.NoError(t, err)
	require.True(t, st.Isolated)
	viewers, err := wan.OpenNamespace(st.Namespaces[wan.ViewersNode(r.Name)])
	require.NoError(t, err)
	defer viewers.Close()
	dial := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := viewers.DialContext(ctx, "tcp", at(r, region.PortS3))
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	require.NoError(t, dial())
	require.NoError(t, operate(t, dir, opSilence, r.Name, "direction", "in"))
	require.Equal(t, "in", conditionOf(t, dir, r.Name).Silence)
	require.NoError(t, operate(t, dir, opSilence, r.Name, "direction", "out"))
	s := conditionOf(t, dir, r.Name)
	require.Equal(t, Silent, s.Condition)
	require.Equal(t, "both", s.Silence)
	for _, p := range s.Processes {
		require.Equal(t, supervise.Ready, p.State, "the inside of a silent region is whole")
	}
	require.ErrorIs(t, dial(), context.DeadlineExceeded)
	wrote, published := both()
	sayAgain(t, r, "silent, PostgreSQL's leader there", wrote, published)
	assert.LessOrEqual(t, wrote, backWithin)
	require.NoError(t, operate(t, dir, opHeal, r.Name))
	require.NoError(t, dial())
	require.Equal(t, Up, conditionOf(t, dir, r.Name).Condition)
}

func TestIsolatedRegionComesBackByItselfAndStopsInOrder(t *testing.T) {
	needRoot(t)
	dir := stateDir(t)
	args := []string{"--regions", "eu", "--isolated", "--network", "1", "--stores-only", "--region-disk", "1GiB", "--state", dir, "--client-config", "none"}
	up := startUp(t, args...)
	up.saysWithin(t, "are ready after", startTimeout)
	fillAndFree(t, dir, "eu")
	slowAndHeal(t, dir, "eu")

	require.NoError(t, syscall.Kill(agentOf(t, dir, "eu"), syscall.SIGKILL))
	up.saysWithin(t, "eu  ended by itself", 10*time.Second)
	up.saysWithin(t, "eu  up again", time.Minute)
	require.Equal(t, Up, conditionOf(t, dir, "eu").Condition)

	require.NoError(t, operate(t, dir, opSilence, "eu", "direction", "both"))
	require.NoError(t, operate(t, dir, opHang, "eu"))
	require.NoError(t, up.Process.Signal(syscall.SIGINT), "a silent and hung region is stopped in order too")
	require.NoError(t, up.endsWithin(t, time.Minute), up.out.String())
	require.NotContains(t, up.out.String(), "not everything stopped")
	require.Empty(t, processesOf(t, dir, "eu"))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)

	loopback := startUp(t, append([]string{"--regions", "eu"}, args[3:]...)...)
	require.Error(t, loopback.endsWithin(t, 20*time.Second))
	require.Contains(t, loopback.out.String(), "was made for isolated regions; start with --isolated")
}

// fillAndFree leaves no room for a region, while others keep theirs.
func fillAndFree(t *testing.T, dir, name string) {
	t.Helper()
	file := filepath.Join(dir, name, "written")
	write := func() error {
		return errors.Join(os.WriteFile(file, make([]byte, 64<<10), 0o600), os.Remove(file))
	}
	require.NoError(t, write())
	require.NoError(t, operate(t, dir, opFill, name))
	require.Equal(t, Full, conditionOf(t, dir, name).Condition)
	require.ErrorIs(t, write(), syscall.ENOSPC)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "written"), make([]byte, 64<<10), 0o600), "the others' disks are not full")
	require.NoError(t, operate(t, dir, opFree, name))
	require.NoError(t, write())
	require.Equal(t, Up, conditionOf(t, dir, name).Condition)
}

// slowAndHeal has each packet of a region come late.
func slowAndHeal(t *testing.T, dir, name string) {
	t.Helper()
	r, ok := newCluster(t, dir).plan.table.Get(name)
	require.True(t, ok)
	connect := func() time.Duration {
		begin := time.Now()
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", at(r, region.PortS3))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		return time.Since(begin)
	}
	require.NoError(t, operate(t, dir, opSlow, name, "delay", "200ms", "rate", "2000000"))
	require.Equal(t, Slow, conditionOf(t, dir, name).Condition)
	require.GreaterOrEqual(t, connect(), 400*time.Millisecond)
	require.NoError(t, operate(t, dir, opHeal, name))
	require.Less(t, connect(), 400*time.Millisecond)
	require.Equal(t, Up, conditionOf(t, dir, name).Condition)
}

// agentOf is the first process of a region.
func agentOf(t *testing.T, dir, name string) int {
	t.Helper()
	for _, pid := range processesOf(t, dir, name) {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(cmd), "\x00region-agent\x00") {
			return pid
		}
	}
	t.Fatal("no agent")
	return 0
}
