package platform

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

const (
	longStarts = 3
	// What a start may take on two idle cores.
	fromNothing, onData = 30 * time.Second, 20 * time.Second
	// idleShare is what three regions may take while nobody uses them, in percent
	// of one core.
	idleShare = 25
)

// TestWholePlatformStartsIdlesAndFailsOver runs the program itself: how long three
// regions take to be ready, again and again; what they cost while nobody uses
// them; and how long creators wait when the region of PostgreSQL's leader is lost.
func TestWholePlatformStartsIdlesAndFailsOver(t *testing.T) {
	testenv.Long(t)
	needRoot(t)
	bin := filepath.Join(t.TempDir(), "meridian")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/meridian-video/meridian").CombinedOutput()
	require.NoError(t, err, string(out))
	dir := stateDir(t)
	args := []string{"--isolated", "--network", "1", "--state", dir, "--client-config", "none"}

	start := func(what string, goal time.Duration, args ...string) *upProcess {
		up := startProgram(t, bin, args...)
		begin := time.Now()
		up.saysWithin(t, "is ready in", 2*startTimeout)
		took := time.Since(begin)
		testenv.Figure(t, "three regions "+what, "%.1f s", took.Seconds())
		if took > goal {
			t.Errorf("three regions %s took %s, want %s:\n%s", what, took, goal, up.out.String())
		}
		return up
	}
	stop := func(up *upProcess) {
		require.NoError(t, up.Process.Signal(syscall.SIGINT))
		require.NoError(t, up.endsWithin(t, time.Minute), up.out.String())
	}
	for range longStarts {
		stop(start("from nothing", fromNothing, append(args, "--fresh")...))
		stop(start("on existing data", onData, args...))
	}
	up := start("on existing data", onData, args...)
	idle(t, dir, up.Process.Pid)
	c := newCluster(t, dir)
	key, err := os.ReadFile(filepath.Join(dir, "secrets", apiKeyFile))
	require.NoError(t, err)
	for _, loss := range []struct{ op, back operation }{{opKill, opStart}, {opHang, opResume}, {opSilence, opHeal}} {
		lost := c.leader(t)
		require.NoError(t, operate(t, dir, loss.op, lost.Name, "direction", "both"))
		for name, took := range c.creators(t, lost.Name, strings.TrimSpace(string(key))) {
			testenv.Figure(t, fmt.Sprintf("assets again through %s after %s of PostgreSQL's leader in %s", name, loss.op, lost.Name), "%.1f s", took.Seconds())
			if took > backWithin {
				t.Errorf("assets again through %s after %s, want %s", name, took, backWithin)
			}
		}
		begin := time.Now()
		require.NoError(t, operate(t, dir, loss.back, lost.Name, "wipe-objects", "false"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.plan.awaitRejoined(ctx, lost)
		cancel()
		require.NoError(t, err)
		testenv.Figure(t, fmt.Sprintf("%s of %s until it follows", loss.back, lost.Name), "%.1f s", time.Since(begin).Seconds())
	}
	stop(up)
}

// creators makes assets through every region but the lost until each has
// accepted one, and says how long that took.
func (c *cluster) creators(t *testing.T, lost, key string) map[string]time.Duration {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	took := map[string]time.Duration{}
	for _, r := range c.plan.table.Regions {
		if r.Name == lost {
			continue
		}
		wg.Go(func() {
			d := until(t, 30*time.Second, func(ctx context.Context) error { return createAsset(ctx, r, key) })
			mu.Lock()
			defer mu.Unlock()
			took[r.Name] = d
		})
	}
	wg.Wait()
	return took
}

func createAsset(ctx context.Context, r region.Region, key string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.API+"/v1/assets", bytes.NewReader([]byte(`{"title": "x"}`)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", r.Name, res.Status)
	}
	return nil
}

// idle measures what a platform costs that nobody uses.
func idle(t *testing.T, dir string, up int) {
	t.Helper()
	const settle, over = 30 * time.Second, 30 * time.Second
	all := func() map[int]bool {
		out := map[int]bool{up: true}
		for _, name := range []string{"eu", "us", "ap"} {
			for _, pid := range processesOf(t, dir, name) {
				out[pid] = true
			}
		}
		return out
	}
	time.Sleep(settle)
	before := map[int]time.Duration{}
	for pid := range all() {
		before[pid] = cpuTime(pid)
	}
	time.Sleep(over)
	var used time.Duration
	var pss int64
	for pid := range all() {
		used += max(0, cpuTime(pid)-before[pid])
		pss += proportionalSize(pid)
	}
	share := 100 * used.Seconds() / over.Seconds()
	testenv.Figure(t, "three idle regions, of one core", "%.0f %%", share)
	if share > idleShare {
		t.Errorf("idle regions used %.1f %% of a core, want %d %%", share, idleShare)
	}
	testenv.Figure(t, "three idle regions, memory (PSS)", "%.2f GiB", float64(pss)/(1<<30))
	require.Less(t, pss, int64(5<<29))
}

// cpuTime is what a process and its reaped children have used.
func cpuTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // it has ended
	}
	// The name, in parentheses, may hold anything; times are fields 14 to 17 (proc(5)).
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int
	for _, s := range f[11:15] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// proportionalSize is a process's memory in bytes, what it shares counted in part.
func proportionalSize(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

// wakes writes to the member of a region that led before it hung, directly, as one
// who doesn't know better, and returns what was acknowledged there.
func wakes(ctx context.Context, c *cluster, r region.Region, within time.Duration) (acknowledged []int) {
	dsn := strings.Replace(c.dsn, c.plan.table.PostgresDSNHosts("us"), r.Postgres, 1)
	dsn = strings.Replace(dsn, "target_session_attrs=read-write", "target_session_attrs=any", 1)
	for n, end := 1, time.Now().Add(within); time.Now().Before(end); n++ {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			_, err = conn.Exec(ctx, "INSERT INTO kept VALUES ($1)", -n)
			if err == nil {
				acknowledged = append(acknowledged, -n)
			}
			return conn.Close(context.WithoutCancel(ctx))
		}()
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return acknowledged
}
