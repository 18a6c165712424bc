package viewers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

// dataPlane are the processes that serve viewers.
func dataPlane(name string) bool {
	return name == "minio" || name == "geodns" || strings.Contains(name, "-")
}

// TestWithoutControlPlane kills api, encoder, PostgreSQL, etcd and NATS in all
// regions, and the router and the edges of eu. A router and an edge that start
// then, with an empty cache, serve a new browser.
func TestWithoutControlPlane(t *testing.T) {
	s := needPlatform(t)
	s.restore(t)
	st, err := s.status()
	require.NoError(t, err)
	var agents []int
	environment := map[string][]string{}
	for _, r := range st.Regions {
		for _, p := range r.Processes {
			if r.Name == "eu" && (p.Name == "geodns" || p.Name == "eu-1") {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
				require.NoError(t, err)
				environment[p.Name] = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
			}
		}
	}
	// The agents that would start the dead again stand still until the end.
	t.Cleanup(func() {
		for _, pid := range agents {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
		s.settled(t)
	})
	for _, r := range st.Regions {
		pids, err := openNamespace(t, st.Namespaces[r.Name]).Processes()
		require.NoError(t, err)
		spared := map[int]bool{}
		for _, p := range r.Processes {
			if dataPlane(p.Name) && (r.Name != "eu" || p.Name == "minio") {
				spared[p.PID] = true
			}
		}
		// First the agent, so that it restarts nothing.
		slices.SortStableFunc(pids, func(a, b int) int { return boolRank(isAgent(b)) - boolRank(isAgent(a)) })
		for _, pid := range pids {
			switch {
			case isAgent(pid):
				require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
				agents = append(agents, pid)
			case !spared[pid]:
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					require.ErrorIs(t, err, syscall.ESRCH)
				}
			}
		}
	}
	require.Len(t, agents, len(st.Regions))
	for _, r := range s.Table.Regions {
		for _, port := range []int{region.PortAPI, region.PortPostgres, region.PortNATS} {
			addr := net.JoinHostPort(r.Edges[0].Addresses[0].String(), fmt.Sprint(port))
			require.Eventually(t, func() bool {
				conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
				if err == nil {
					conn.Close()
				}
				return err != nil
			}, 5*time.Second, 50*time.Millisecond, "%s listens", addr)
		}
	}

	begin := time.Now()
	s.fresh(t, st.Namespaces["eu"], "geodns", environment["geodns"], "198.19.1.1:9081")
	s.fresh(t, st.Namespaces["eu"], "edge-cache", append(environment["eu-1"], "MERIDIAN_EDGE_CACHE_DIR="+t.TempDir()), "198.19.1.1:9082")
	testenv.Figure(t, "router and edge ready from nothing, without a control plane", "%.1f s", time.Since(begin).Seconds())
	// Its own view must be complete before it is asked.
	time.Sleep(time.Second)
	begin = time.Now()
	w := s.watch(t, bySteering, 60, line)
	testenv.Figure(t, "new browser plays without a control plane", "%.1f s after it was started", time.Since(begin).Seconds())
	w.page.WaitPosition(8, openIn)
	st8 := w.page.State()
	w.shot("playing")
	require.Equal(t, "eu-1", st8.Edge, "%+v", st8)
	require.Zero(t, st8.Stalls, "%+v", st8)
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

func isAgent(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(b, []byte("\x00region-agent\x00"))
}

// fresh starts a service in a region's network as the platform would, and waits
// until it is ready. It ends with the test.
func (s *isolated) fresh(t *testing.T, namespace, command string, env []string, admin string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+namespace, s.Bin, command)
	var log testenv.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("%s: %s", command, log.String())
		}
	})
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	require.Eventually(t, func() bool {
		res, err := client.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, 30*time.Second, 50*time.Millisecond, "%s isn't ready: %s", command, &log)
}
