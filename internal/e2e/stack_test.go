package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

// oneRegion is a running platform of one region.
type oneRegion struct {
	*stack.Stack
	api string
}

var platform *oneRegion

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	s, err := stack.Start(stack.Options{Name: "e2e", Args: []string{"--regions", "eu", "--network", "210"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	platform = &oneRegion{s, s.Table.Regions[0].API}
	return s.Run(m)
}

func (s *oneRegion) region() region.Region { return s.Table.Regions[0] }

// master is where a public asset's stream begins.
func master(asset string) string {
	return platform.region().Router.URL + "/v/-/" + asset + "/master.m3u8"
}

// signalled sends a signal to a process of the platform.
func signalled(t *testing.T, p stack.Process, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(p.PID, sig))
}

// update is a line of `meridian upload --json`.
type update struct {
	// State is what was reached: "uploading", "received", "playable", "ready", "failed".
	State    string  `json:"event"`
	Asset    string  `json:"asset"`
	WatchURL string  `json:"watch"`
	Seconds  float64 `json:"seconds"`
	Raw      string  `json:"-"`
}

// upload is a running `meridian upload FILE --json`.
type upload struct {
	t       *testing.T
	cmd     *exec.Cmd
	updates chan update
	stderr  *testenv.Buffer
	ended   chan error
}

func (s *oneRegion) upload(t *testing.T, file string, args ...string) *upload {
	t.Helper()
	u := &upload{t: t, updates: make(chan update, 1000), stderr: &testenv.Buffer{}, ended: make(chan error, 1)}
	u.cmd = s.Command(t.Context(), append([]string{"upload", "--json", file}, args...)...)
	u.cmd.Stderr = u.stderr
	out, err := u.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, u.cmd.Start())
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var up update
			up.Raw = lines.Text()
			if err := json.Unmarshal(lines.Bytes(), &up); err != nil {
				up.Raw = err.Error() + ": " + up.Raw
			}
			u.updates <- up
		}
		close(u.updates)
		u.ended <- u.cmd.Wait()
	}()
	return u
}

// until waits for the upload's asset to be in a state.
func (u *upload) until(state string, timeout time.Duration) update {
	u.t.Helper()
	after := time.After(timeout)
	var last update
	for {
		select {
		case up, ok := <-u.updates:
			if !ok {
				u.t.Fatalf("upload ended (%v) before %q; last line %q\n%s", <-u.ended, state, last.Raw, u.stderr)
			}
			last = up
			if up.State == state {
				return up
			}
		case <-after:
			u.t.Fatalf("not %q within %v; last line %q\n%s", state, timeout, last.Raw, u.stderr)
		}
	}
}

// call sends a request to the API with the platform's key and decodes the JSON answer.
func (s *oneRegion) call(t *testing.T, method, path, body string, header ...string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.api+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.Key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	status, _, b := do(t, req)
	var out map[string]any
	if len(b) > 0 {
		require.NoError(t, json.Unmarshal(b, &out), "%s", b)
	}
	return status, out
}

// client follows no redirects, so that tests see them.
var client = &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func do(t *testing.T, req *http.Request) (int, http.Header, []byte) {
	t.Helper()
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, b
}

func get(t *testing.T, url string, header ...string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(t, req)
}
