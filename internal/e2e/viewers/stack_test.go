package viewers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/wan"
)

// stack is a running platform of three isolated regions with a video to watch.
type stack struct {
	dir, bin string
	cmd      *exec.Cmd
	output   *testenv.Buffer
	table    *region.Table
	viewers  *wan.Namespace // where viewers near eu are
	asset    string
	frames   int // of the video
}

var platform *stack

const network = "1"

// seconds of the video: enough that a viewer still needs a region when one is lost.
func seconds() int {
	if testenv.IsLong() {
		return 75
	}
	return 40
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() == 0 {
		s, err := start()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		platform = s
	}
	code := m.Run()
	if platform != nil {
		if code != 0 {
			platform.dumpLogs()
		}
		if err := platform.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// needPlatform skips where there can be none.
func needPlatform(t *testing.T) *stack {
	t.Helper()
	if platform == nil {
		t.Skip("not root: isolated regions need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
	return platform
}

func start() (_ *stack, err error) {
	dir, err := os.MkdirTemp("/tmp", "meridian-viewers-")
	if err != nil {
		return nil, err
	}
	s := &stack{dir: dir, bin: filepath.Join(dir, "meridian"), output: &testenv.Buffer{}}
	defer func() {
		if err != nil {
			s.dumpLogs()
			err = errors.Join(err, s.stop())
		}
	}()
	// Postgres runs as another user and must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", s.bin, "github.com/meridian-video/meridian")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	s.cmd = s.command(context.Background(), "up", "--isolated", "--network", network)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// The platform ends with the tests, however they end. The signal is tied to
	// the thread that starts it, which must therefore stay.
	runtime.LockOSThread()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	// Meanwhile the video is made.
	file := filepath.Join(dir, "video.mp4")
	if err := makeVideo(file); err != nil {
		return nil, err
	}
	for !strings.Contains(s.output.String(), "meridian upload") {
		if time.Since(began) > 3*time.Minute {
			return nil, errors.New("the platform isn't ready after three minutes")
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("three regions up in %.1f s\n", time.Since(began).Seconds())
	if s.table, err = region.Load(filepath.Join(s.state(), "regions.yaml")); err != nil {
		return nil, err
	}
	st, err := s.status()
	if err != nil {
		return nil, err
	}
	if s.viewers, err = wan.OpenNamespace(st.Namespaces[wan.ViewersNode("eu")]); err != nil {
		return nil, err
	}
	began = time.Now()
	if err := s.upload(file); err != nil {
		return nil, err
	}
	fmt.Printf("%d s of video ready in %.1f s: %s\n", seconds(), time.Since(began).Seconds(), s.asset)
	return s, nil
}

// makeVideo makes a small video with sound whose segments are large enough to
// be cut: some noise keeps the rate near its cap.
func makeVideo(file string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", filepath.Join("..", "..", "..", "testdata", "media", "bbb-1080p30.mp4"),
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", fmt.Sprint(seconds()), "-map", "0:v", "-map", "1:a",
		"-vf", "scale=640:360,noise=alls=14:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "22", "-g", "300", "-c:a", "aac", "-b:a", "96k",
		"-movflags", "+faststart", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the video: %w\n%s", err, out)
	}
	return nil
}

func (s *stack) upload(file string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := s.command(ctx, "upload", "--json", file)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("upload: %w\n%s%s", err, out, &errOut)
	}
	last := ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var l struct{ Event, Asset string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("upload: %w: %s", err, lines.Text())
		}
		last, s.asset = l.Event, l.Asset
	}
	if last != "ready" {
		return fmt.Errorf("upload ended with %q, want ready\n%s", last, out)
	}
	probe := exec.CommandContext(ctx, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets",
		"-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", file)
	if out, err = probe.Output(); err != nil {
		return fmt.Errorf("ffprobe: %w", err)
	}
	_, err = fmt.Sscan(string(out), &s.frames)
	return err
}

func (s *stack) state() string { return filepath.Join(s.dir, "state") }

// command runs the binary with the configuration of this platform's own.
func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = s.env()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

func (s *stack) env() []string {
	return append(os.Environ(), "MERIDIAN_STATE="+s.state(), "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"), "XDG_STATE_HOME="+filepath.Join(s.dir, "client"))
}

// stop ends the platform as Ctrl-C does and removes its files.
func (s *stack) stop() error {
	var errs []error
	if s.viewers != nil {
		errs = append(errs, s.viewers.Close())
	}
	if s.cmd != nil && s.cmd.Process != nil {
		errs = append(errs, s.cmd.Process.Signal(os.Interrupt))
		done := make(chan error, 1)
		go func() { done <- s.cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				errs = append(errs, fmt.Errorf("meridian up: %w\n%s", err, s.output))
			}
		case <-time.After(2 * time.Minute):
			errs = append(errs, errors.New("meridian up didn't end within two minutes of SIGINT"), s.cmd.Process.Kill(), <-done)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (s *stack) dumpLogs() {
	fmt.Printf("--- meridian up\n%s\n", s.output)
	err := filepath.WalkDir(filepath.Join(s.state(), "logs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Printf("--- %s\n%s\n", path, b[max(0, len(b)-3000):])
		return err
	})
	if err != nil {
		fmt.Println("logs:", err)
	}
}

// status is what `meridian status --json` prints.
type status struct {
	Regions []struct {
		Name, Condition string
		Processes       []struct {
			Name  string `json:"name"`
			State string `json:"state"`
			PID   int    `json:"pid"`
		}
	}
	Namespaces map[string]string
}

// status asks the platform; it is also returned when not all is well.
func (s *stack) status() (status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var st status
	out, err := s.command(ctx, "status", "--json").Output()
	if jerr := json.Unmarshal(out, &st); jerr != nil {
		return st, errors.Join(err, jerr)
	}
	return st, nil
}

// region runs `meridian region`.
func (s *stack) region(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := s.command(ctx, append([]string{"region"}, args...)...).CombinedOutput()
	require.NoError(t, err, "region %v\n%s", args, out)
}

// restore brings the named regions back from whatever happened to them, and waits
// until every router finds every edge working again.
func (s *stack) restore(t *testing.T) {
	t.Helper()
	st, err := s.status()
	require.NoError(t, err)
	undo := map[string][]string{}
	for _, r := range st.Regions {
		switch r.Condition {
		case "hung":
			undo["resume"] = append(undo["resume"], r.Name)
		case "silent":
			undo["heal"] = append(undo["heal"], r.Name)
		case "killed", "stopped":
			undo["start"] = append(undo["start"], r.Name)
		}
	}
	for op, names := range undo {
		s.region(t, append([]string{op}, names...)...)
	}
	s.settled(t)
}

// settled waits until every router finds every edge working.
func (s *stack) settled(t *testing.T) { s.routers(t, false) }

// heard waits until the routers also hear each other.
func (s *stack) heard(t *testing.T) { s.routers(t, true) }

func (s *stack) routers(t *testing.T, heard bool) {
	t.Helper()
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	// A region that was lost again and again is kept away for a while.
	deadline := time.Now().Add(3 * time.Minute)
	for _, r := range s.table.Regions {
		for err := s.allUp(client, r, heard); err != nil; err = s.allUp(client, r, heard) {
			if time.Now().After(deadline) {
				t.Fatalf("after three minutes the router of %s says: %v", r.Name, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (s *stack) allUp(client *http.Client, r region.Region, heard bool) error {
	res, err := client.Get(r.Router.URL + "/explain?format=json&ip=" + europe(1).String())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var e struct {
		Regions []struct {
			Name  string
			Edges []struct {
				Name string
				Up   bool
			}
		}
		Alone bool
	}
	if err := json.NewDecoder(res.Body).Decode(&e); err != nil {
		return err
	}
	for _, x := range e.Regions {
		for _, edge := range x.Edges {
			if !edge.Up {
				return fmt.Errorf("%s is down", edge.Name)
			}
		}
	}
	if len(e.Regions) != 3 || e.Regions[0].Name != "eu" {
		return fmt.Errorf("regions are %+v, want eu first of three", e.Regions)
	}
	if heard && e.Alone {
		return errors.New("it hears no other router")
	}
	return nil
}

// europe is an address of viewers near eu.
func europe(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 19, 11, n}) }

// viewer is a European with a line of so many bytes a second; 0 is unlimited.
func (s *stack) viewer(t *testing.T, n byte, rate int) *Viewer {
	t.Helper()
	var servers []string
	for _, r := range s.table.Regions {
		servers = append(servers, r.Router.DNS)
	}
	v, err := Open(Config{Namespace: s.viewers, Source: europe(n), NameServers: servers, Rate: rate})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

// in reports whether an address is an edge of the region.
func (s *stack) in(names ...string) func(netip.Addr) bool {
	var all []netip.Addr
	for _, r := range s.table.Regions {
		if slices.Contains(names, r.Name) {
			for _, e := range r.Edges {
				all = append(all, e.Addresses...)
			}
		}
	}
	return func(a netip.Addr) bool { return slices.Contains(all, a) }
}

// regionOf is the region of an edge by its name: "eu" of "eu-1".
func regionOf(edge string) string {
	r, _, _ := strings.Cut(edge, "-")
	return r
}
