package playertest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cmcd"
	"github.com/meridian-video/meridian/web"
)

const (
	source  = "../../testdata/media/small-426x240-27s.mp4"
	segment = 2
)

// media is a real fMP4 stream on disk: two rungs and an audio rendition.
type media struct {
	dir    string
	frames int
	length float64
}

var renditions = []string{"v144", "v240", "a"}

func encode(t testing.TB) media {
	t.Helper()
	m := media{dir: t.TempDir()}
	hls := func(name string) []string {
		dir := filepath.Join(m.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return []string{"-f", "hls", "-hls_time", strconv.Itoa(segment), "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4",
			"-hls_segment_filename", filepath.Join(dir, "%05d.m4s"), filepath.Join(dir, "index.m3u8")}
	}
	args := []string{"-nostdin", "-v", "error", "-i", source}
	for _, r := range []struct{ name, size, rate string }{{"v144", "256:144", "150k"}, {"v240", "426:240", "350k"}} {
		args = append(args, "-map", "0:v", "-vf", "scale="+r.size, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p",
			"-b:v", r.rate, "-maxrate", r.rate, "-bufsize", r.rate, "-sc_threshold", "0", "-bf", "0",
			"-force_key_frames", fmt.Sprintf("expr:gte(t,n_forced*%d)", segment))
		args = append(args, hls(r.name)...)
	}
	args = append(args, "-map", "0:a", "-c:a", "aac", "-b:a", "96k", "-ac", "2")
	args = append(args, hls("a")...)
	command(t, "ffmpeg", args...)
	out := command(t, "ffprobe", "-v", "error", "-select_streams", "v", "-count_packets",
		"-show_entries", "stream=nb_read_packets,duration", "-of", "json", source)
	var probe struct {
		Streams []struct {
			Packets  string `json:"nb_read_packets"`
			Duration string `json:"duration"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(out, &probe); err != nil || len(probe.Streams) == 0 {
		t.Fatalf("ffprobe: %v in %s", err, out)
	}
	var err error
	if m.frames, err = strconv.Atoi(probe.Streams[0].Packets); err != nil {
		t.Fatal(err)
	}
	if m.length, err = strconv.ParseFloat(probe.Streams[0].Duration, 64); err != nil {
		t.Fatal(err)
	}
	return m
}

func command(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.String())
	}
	return out
}

// playlist is a rendition's playlist; a growing one holds the first n segments.
func (m media) playlist(t testing.TB, rendition string, n int) string {
	b, err := os.ReadFile(filepath.Join(m.dir, rendition, "index.m3u8"))
	if err != nil {
		t.Errorf("playlist: %v", err)
		return ""
	}
	if n < 0 {
		return string(b)
	}
	var out []string
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if strings.HasPrefix(line, "#EXTINF") {
			if seen == n {
				return strings.Replace(strings.Join(out, "\n"), "TYPE:VOD", "TYPE:EVENT", 1) + "\n"
			}
			seen++
		}
		out = append(out, line)
	}
	return strings.Replace(strings.Join(out, "\n"), "TYPE:VOD", "TYPE:EVENT", 1) + "\n"
}

// host is a server that can die in the ways a region does.
type host struct {
	url string

	mu     sync.Mutex
	srv    *http.Server
	hung   chan struct{} // closed when requests must get no further byte
	killed bool
	done   chan struct{} // closed when the test ends
}

func newHost(t testing.TB, addr string, h http.Handler) *host {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &host{url: "http://" + l.Addr().String(), hung: make(chan struct{}), done: make(chan struct{})}
	s.srv = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		select {
		case <-s.hung:
			s.stay(r)
			return
		default:
		}
		h.ServeHTTP(&slow{ResponseWriter: w, host: s, r: r}, r)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.srv.Serve(l)
	}()
	t.Cleanup(func() {
		close(s.done)
		s.kill()
		<-served
	})
	return s
}

// stay leaves a request without a further byte until its client gives up.
func (s *host) stay(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.done:
	}
}

// kill refuses new connections and resets the present ones.
func (s *host) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.killed {
		s.killed = true
		_ = s.srv.Close()
	}
}

// hang goes on accepting connections and answers nothing, also in the middle of a body.
func (s *host) hang() { close(s.hung) }

// slow writes in small pieces, at most rate bytes a second, until the host hangs.
type slow struct {
	http.ResponseWriter
	host *host
	r    *http.Request
}

const (
	rate  = 160 << 10
	piece = 4 << 10
)

func (w *slow) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		select {
		case <-w.host.hung:
			w.host.stay(w.r)
			return n, http.ErrAbortHandler
		default:
		}
		k, err := w.ResponseWriter.Write(b[n:min(n+piece, len(b))])
		n += k
		if err != nil {
			return n, err
		}
		if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
			return n, err
		}
		select {
		case <-time.After(time.Second * time.Duration(k) / rate):
		case <-w.r.Context().Done():
			return n, w.r.Context().Err()
		}
	}
	return n, nil
}

// world is two edges and two routers around one video.
type world struct {
	t     testing.TB
	media media
	// window, unless 0, makes the playlists grow: they hold what the time since the first
	// playlist request has encoded, and window seconds more.
	window time.Duration
	// aware says whether steering knows that eu-1 is lost.
	aware func() bool
	// state is what the watch page says.
	state func() string

	eu1, us1 *host // edges
	r1, r2   *host // routers; r2 is the one steering names

	once    sync.Once
	started time.Time

	mu sync.Mutex
	// told is what the player said to edges (CMCD), by kind of object, and under
	// which session ids.
	told     map[cmcd.Object][]cmcd.Report
	sessions map[string]bool
}

// report reads what the player says with a request for something of the video.
func (w *world) report(r *http.Request) {
	_, value, _, found := cmcd.Cut(r.URL.RawQuery)
	var report cmcd.Report
	if err := report.ParseQuery(value); err != nil || !found {
		w.t.Errorf("%s: CMCD: %v", r.URL, err)
	}
	sid := regexp.MustCompile(`sid="([^"]+)"`).FindStringSubmatch(r.URL.Query().Get("CMCD"))
	if sid == nil {
		w.t.Errorf("%s: no session", r.URL)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[report.Object] = append(w.told[report.Object], report)
	w.sessions[sid[1]] = true
}

// wantReports checks that the player told edges of its playback, as one session.
func (w *world) wantReports() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sessions) != 1 {
		w.t.Errorf("sessions: %v", w.sessions)
	}
	for _, o := range []cmcd.Object{cmcd.Manifest, cmcd.Init, cmcd.Video, cmcd.Audio} {
		if len(w.told[o]) == 0 {
			w.t.Errorf("nothing was said of %s", o)
		}
	}
	measured, buffered := 0, 0
	for _, r := range w.told[cmcd.Video] {
		if r.Throughput.N > 0 && r.Bitrate.N > 0 {
			measured++
		}
		if r.Buffer.N > 0 {
			buffered++
		}
	}
	if measured == 0 || buffered == 0 {
		w.t.Errorf("of %d segments %d had throughput and bitrate, %d a buffer", len(w.told[cmcd.Video]), measured, buffered)
	}
}

func newWorld(t testing.TB, m media) *world {
	t.Helper()
	w := &world{t: t, media: m, told: map[cmcd.Object][]cmcd.Report{}, sessions: map[string]bool{}, aware: func() bool { return false }, state: func() string { return web.StateReady }}
	w.eu1 = newHost(t, "127.0.0.2:0", http.HandlerFunc(w.edge))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(w.eu1.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	w.us1 = newHost(t, "127.0.0.3:"+port, http.HandlerFunc(w.edge))
	w.r1 = newHost(t, "127.0.0.1:0", http.HandlerFunc(w.router))
	w.r2 = newHost(t, "127.0.0.4:0", http.HandlerFunc(w.router))
	return w
}

func (w *world) grown() int {
	w.once.Do(func() { w.started = time.Now() })
	if w.window == 0 {
		return -1
	}
	return int((time.Since(w.started) + w.window) / (segment * time.Second))
}

func (w *world) edge(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v/-/a/master.m3u8" {
		rw.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		_, _ = rw.Write([]byte(w.master()))
		return
	}
	rendition, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v/-/a/r1/"), "/")
	if !slices.Contains(renditions, rendition) || strings.Contains(name, "/") {
		http.NotFound(rw, r)
		return
	}
	w.report(r)
	if name == "index.m3u8" {
		rw.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		_, _ = rw.Write([]byte(w.media.playlist(w.t, rendition, w.grown())))
		return
	}
	b, err := os.ReadFile(filepath.Join(w.media.dir, rendition, name))
	if err != nil {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", "video/mp4")
	rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = rw.Write(b)
}

func (w *world) master() string {
	var b strings.Builder
	first, err := json.Marshal(map[string]any{"VERSION": 1, "TTL": 2, "RELOAD-URI": w.r2.url + "/steer?a=a&s=test",
		"PATHWAY-PRIORITY": []string{"eu-1", "us-1"}})
	if err != nil {
		w.t.Errorf("steering: %v", err)
	}
	fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n")
	fmt.Fprintf(&b, "#EXT-X-CONTENT-STEERING:SERVER-URI=\"data:application/json,%s\",PATHWAY-ID=\"eu-1\"\n", url.PathEscape(string(first)))
	for _, e := range []struct{ name, url string }{{"eu-1", w.eu1.url}, {"us-1", w.us1.url}} {
		fmt.Fprintf(&b, "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aud-%s\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"%s/v/-/a/r1/a/index.m3u8\"\n", e.name, e.url)
		for _, v := range []struct {
			id, size string
			bw       int
		}{{"v144", "256x144", 280_000}, {"v240", "426x240", 500_000}} {
			fmt.Fprintf(&b, "#EXT-X-STREAM-INF:BANDWIDTH=%d,RESOLUTION=%s,CODECS=\"avc1.42c01e,mp4a.40.2\",AUDIO=\"aud-%s\",PATHWAY-ID=\"%s\",STABLE-VARIANT-ID=\"%s\"\n%s/v/-/a/r1/%s/index.m3u8\n",
				v.bw, v.size, e.name, e.name, v.id, e.url, v.id)
		}
	}
	return b.String()
}

func (w *world) router(rw http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/assets/"):
		web.Assets().ServeHTTP(rw, r)
	case r.URL.Path == "/watch/a":
		page := web.Page{Asset: "a", Title: "A small film about rabbits & 'quotes' </script>", State: w.state(), Duration: w.media.length,
			Master: "/v/-/a/master.m3u8", Routers: []string{w.r1.url, w.r2.url}, Edges: []web.Edge{
				{Name: "eu-1", Region: "eu", Place: "Frankfurt", URL: w.eu1.url},
				{Name: "us-1", Region: "us", Place: "Ashburn", URL: w.us1.url}}}
		if err := web.Player(rw, http.StatusOK, page); err != nil && r.Context().Err() == nil {
			w.t.Errorf("player page: %v", err)
		}
	case r.URL.Path == "/v/-/a/master.m3u8":
		to := w.eu1.url
		if w.aware() {
			to = w.us1.url
		}
		http.Redirect(rw, r, to+r.URL.Path, http.StatusFound)
	case r.URL.Path == "/steer":
		order := []string{"eu-1", "us-1"}
		if w.aware() {
			slices.Reverse(order)
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(rw).Encode(map[string]any{"VERSION": 1, "TTL": 2, "PATHWAY-PRIORITY": order})
	default:
		http.NotFound(rw, r)
	}
}
