package viewers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/viewer"
	"github.com/meridian-video/meridian/internal/wan"
)

// isolated is a running platform of three isolated regions with a video to watch.
type isolated struct {
	*stack.Stack
	viewers *wan.Namespace // where viewers near eu are
	film
}

// film is a video to watch.
type film struct {
	asset           string
	frames, seconds int
}

var platform *isolated

// seconds of the video: enough that a viewer still needs a region when one is lost.
func seconds() int {
	if testenv.IsLong() {
		return 50
	}
	return 40
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	code := 0
	if os.Geteuid() == 0 {
		code = runIsolated(m)
	} else {
		code = m.Run()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func runIsolated(m *testing.M) int {
	file := ""
	s, err := stack.Start(stack.Options{Name: "viewers", Args: []string{"--isolated", "--network", "1"}, Meanwhile: func(dir string) error {
		file = filepath.Join(dir, "video.mp4")
		return makeVideo(file, seconds())
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	platform = &isolated{Stack: s}
	if err := platform.prepare(file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		s.DumpLogs()
		if err := s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	}
	code := s.Run(m)
	if err := platform.viewers.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// prepare publishes the video that is watched.
func (s *isolated) prepare(file string) error {
	st, err := s.status()
	if err != nil {
		return err
	}
	if s.viewers, err = wan.OpenNamespace(st.Namespaces[wan.ViewersNode("eu")]); err != nil {
		return err
	}
	began := time.Now()
	if s.film, err = s.upload(file, seconds()); err != nil {
		return errors.Join(err, s.viewers.Close())
	}
	fmt.Printf("%d s of video ready in %.1f s: %s\n", s.seconds, time.Since(began).Seconds(), s.asset)
	return nil
}

// needPlatform skips where there can be none.
func needPlatform(t *testing.T) *isolated {
	t.Helper()
	if platform == nil {
		t.Skip("not root: isolated regions need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
	return platform
}

// makeVideo makes a small video with sound whose segments are large enough to
// be cut: some noise keeps the rate near its cap.
func makeVideo(file string, seconds int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", filepath.Join("..", "..", "..", "testdata", "media", "bbb-1080p30.mp4"),
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", fmt.Sprint(seconds), "-map", "0:v", "-map", "1:a",
		"-vf", "scale=640:360,noise=alls=14:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "22", "-g", "300", "-c:a", "aac", "-b:a", "96k",
		"-movflags", "+faststart", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the video: %w\n%s", err, out)
	}
	return nil
}

func (s *isolated) upload(file string, seconds int) (film, error) {
	f := film{seconds: seconds}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	out, _, err := s.CLI(ctx, "upload", "--json", file)
	if err != nil {
		return f, err
	}
	last := ""
	for line := range strings.Lines(out) {
		var l struct{ Event, Asset string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return f, fmt.Errorf("upload: %w: %s", err, line)
		}
		last, f.asset = l.Event, l.Asset
	}
	if last != "ready" {
		return f, fmt.Errorf("upload ended with %q, want ready\n%s", last, out)
	}
	if err := stack.Check(ctx, s.Table.Regions[0].Router.URL+"/v/-/"+f.asset+"/master.m3u8"); err != nil {
		return f, err
	}
	probe := exec.CommandContext(ctx, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets",
		"-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", file)
	packets, err := probe.Output()
	if err != nil {
		return f, fmt.Errorf("ffprobe: %w", err)
	}
	_, err = fmt.Sscan(string(packets), &f.frames)
	return f, err
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
func (s *isolated) status() (status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var st status
	out, err := s.Command(ctx, "status", "--json").Output()
	if jerr := json.Unmarshal(out, &st); jerr != nil {
		return st, errors.Join(err, jerr)
	}
	return st, nil
}

// restore brings the named regions back from whatever happened to them, and waits
// until every router finds every edge working again.
func (s *isolated) restore(t *testing.T) {
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
		s.Regions(t, op, names...)
	}
	s.settled(t)
}

// settled waits until every router finds every edge working.
func (s *isolated) settled(t *testing.T) {
	t.Helper()
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	// A region that was lost again and again is kept away for a while.
	deadline := time.Now().Add(3 * time.Minute)
	for _, r := range s.Table.Regions {
		for err := s.allUp(client, r); err != nil; err = s.allUp(client, r) {
			if time.Now().After(deadline) {
				t.Fatalf("after three minutes the router of %s says: %v", r.Name, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (s *isolated) allUp(client *http.Client, r region.Region) error {
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
	return nil
}

// europe is an address of viewers near eu.
func europe(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 19, 11, n}) }

// viewer is a European with a line of so many bytes a second; 0 is unlimited.
func (s *isolated) viewer(t *testing.T, n byte, rate int) *viewer.Viewer {
	t.Helper()
	v, err := viewer.Open(viewer.Config{Dial: s.viewers.DialFrom(europe(n)), NameServers: s.Table.NameServers("eu"), Rate: rate})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v
}

// in reports whether an address is an edge of the region.
func (s *isolated) in(names ...string) func(netip.Addr) bool {
	var all []netip.Addr
	for _, r := range s.Table.Regions {
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
