package edgecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/web"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

// frames is a client of HTTP/2 whose every frame the test sends.
type frames struct {
	t    *testing.T
	addr string
	tls  *tls.Conn
	fr   *http2.Framer
	next uint32

	// What has come.
	status map[uint32]string
	bodies map[uint32]*bytes.Buffer
	ended  map[uint32]bool
	away   []uint32 // last streams of GOAWAY
	pings  [][8]byte
	closed bool
}

func dialFrames(t *testing.T, addr string, pool *x509.CertPool) *frames {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2"}})
	require.NoError(t, err)
	require.Equal(t, "h2", c.ConnectionState().NegotiatedProtocol)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	f := &frames{t: t, addr: addr, tls: c, fr: http2.NewFramer(c, c), next: 1, status: map[uint32]string{}, bodies: map[uint32]*bytes.Buffer{}, ended: map[uint32]bool{}}
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, f.fr.WriteSettings())
	return f
}

// ask begins a stream.
func (f *frames) ask(path string) (id uint32) {
	f.t.Helper()
	id, f.next = f.next, f.next+2
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: f.addr}, {Name: ":path", Value: path}} {
		require.NoError(f.t, e.WriteField(h))
	}
	require.NoError(f.t, f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	f.bodies[id] = &bytes.Buffer{}
	return id
}

// until reads frames until ok; it gives back no window by itself.
func (f *frames) until(what string, ok func() bool) {
	f.t.Helper()
	for !ok() {
		frame, err := f.fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			f.closed = true
			require.True(f.t, ok(), "%s: the connection has ended", what)
			return
		}
		require.NoError(f.t, err, what)
		id := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				require.NoError(f.t, f.fr.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			f.status[id] = frame.PseudoValue("status")
			f.ended[id] = frame.StreamEnded()
		case *http2.DataFrame:
			f.bodies[id].Write(frame.Data())
			f.ended[id] = frame.StreamEnded()
		case *http2.GoAwayFrame:
			require.Equal(f.t, http2.ErrCodeNo, frame.ErrCode)
			f.away = append(f.away, frame.LastStreamID)
		case *http2.PingFrame:
			if !frame.IsAck() {
				f.pings = append(f.pings, frame.Data)
			}
		case *http2.RSTStreamFrame:
			require.Fail(f.t, "RST_STREAM", "%s: stream %d: %s", what, id, frame.ErrCode)
		}
	}
}

func (f *frames) wantWhole(id uint32, want []byte) {
	f.t.Helper()
	f.until(fmt.Sprintf("stream %d whole", id), func() bool { return f.ended[id] })
	require.Equal(f.t, "200", f.status[id])
	require.True(f.t, bytes.Equal(want, f.bodies[id].Bytes()), "stream %d: %d of %d bytes", id, f.bodies[id].Len(), len(want))
}

func (f *frames) window(stream uint32, n uint32) {
	f.t.Helper()
	require.NoError(f.t, f.fr.WriteWindowUpdate(stream, n))
}

// TestDrainOverHTTP2: a drained edge answers on, on the same connections. One that
// stops says so twice, answers what was on its way, finishes a hit whose reader is
// slow and a miss whose origin is, and refuses what comes after its last word.
func TestDrainOverHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 3)
	addr, pool := w.secure(false, nil)
	mux := http.NewServeMux()
	w.edge.Operate(mux)
	drain := func(method string) {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(method, "/drain", nil))
		require.Equal(t, 200, rec.Code)
	}
	f := dialFrames(t, addr, pool)
	hit := f.ask(segURL("-", 0))
	f.until("a first part", func() bool { return f.bodies[hit].Len() == 65535 }) // the window it has

	drain(http.MethodPost)
	health := f.ask(healthPath)
	f.window(0, 1<<20)
	f.until("health", func() bool { return f.ended[health] })
	require.Equal(t, "503", f.status[health])
	f.window(hit, 1<<20)
	f.wantWhole(hit, w.content[segKey(0)])
	require.Empty(t, f.away, "being drained is no reason to leave")
	drain(http.MethodDelete)

	// One answer waits for its reader and one for its origin.
	hit = f.ask(segURL("-", 0))
	f.until("a first part", func() bool { return f.bodies[hit].Len() == 65535 })
	w.proxies[0].pace.Store(segmentBytes / 2)
	miss := f.ask(segURL("-", 1))
	w.proxies[0].step <- struct{}{}
	f.window(miss, 1<<20)
	f.until("half a miss", func() bool { return f.bodies[miss].Len() > 0 })
	w.proxies[0].pace.Store(0)

	began := time.Now()
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	f.until("the first GOAWAY", func() bool { return len(f.away) == 1 && len(f.pings) == 1 })
	require.EqualValues(t, 1<<31-1, f.away[0])
	late := f.ask(segURL("-", 0))
	f.window(late, 1<<20)
	// It doesn't wait forever for the ping's answer.
	f.until("what was on its way", func() bool { return f.ended[late] || len(f.away) == 2 && f.away[1] < late })
	if f.ended[late] {
		f.wantWhole(late, w.content[segKey(0)])
	}
	require.NoError(t, f.fr.WritePing(true, f.pings[0]))
	f.until("the last GOAWAY", func() bool { return len(f.away) == 2 })
	require.Equal(t, f.ended[late], f.away[1] == late)
	refused := f.ask(segURL("-", 0))
	f.window(refused, 1<<20)
	_, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", addr, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	require.Error(t, err, "nobody new is let in")
	select {
	case <-stopped:
		require.Fail(t, "it stopped with answers under way")
	default:
	}
	f.window(hit, 1<<20)
	f.wantWhole(hit, w.content[segKey(0)])
	w.proxies[0].step <- struct{}{}
	f.wantWhole(miss, w.content[segKey(1)])
	f.until("the end", func() bool { return f.closed })
	require.Empty(t, f.status[refused])
	require.Zero(t, f.bodies[refused].Len())
	require.NoError(t, f.tls.Close())
	<-stopped
	require.Less(t, time.Since(began), drainTime)
}

// TestDrainOverHTTP2Client: Go's client loses nothing of what it has begun, and
// finds no connection for what comes after.
func TestDrainOverHTTP2Client(t *testing.T) {
	t.Parallel()
	const requests = 8
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), requests)
	addr, pool := w.secure(false, nil)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}, ForceAttemptHTTP2: true, DisableCompression: true,
		// A response waits until it is read.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 1 << 20}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	var begun []*http.Response
	for n := range requests {
		res, err := c.Get("https://" + addr + segURL("-", n))
		require.NoError(t, err)
		require.Equal(t, 2, res.ProtoMajor)
		begun = append(begun, res)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	require.Eventually(t, func() bool { // the connection it has takes requests for a moment still
		res, err := c.Get("https://" + addr + healthPath)
		if err == nil {
			_ = res.Body.Close()
		}
		return err != nil
	}, 10*time.Second, 5*time.Millisecond)
	select {
	case <-stopped:
		require.Fail(t, "it stopped with answers under way")
	default:
	}
	for n, res := range begun {
		b, err := io.ReadAll(res.Body)
		require.NoError(t, errors.Join(err, res.Body.Close()))
		require.True(t, bytes.Equal(w.content[segKey(n)], b), n)
	}
	tr.CloseIdleConnections()
	<-stopped
}

// film publishes a film that a browser can play, without sound, of one rendition and
// some segments. It returns the segments' paths below the run and its length.
func (w *world) film() (paths []string, seconds float64) {
	w.t.Helper()
	const rendition = "v240"
	dir := w.t.TempDir()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ffmpeg", "-nostdin", "-v", "error", "-i", "../testdata/media/small-426x240-27s.mp4", "-t", "6", "-an",
		"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", "0", "-sc_threshold", "0", "-force_key_frames", "expr:gte(t,n_forced*2)",
		"-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4", "-hls_segment_filename", filepath.Join(dir, "%05d.m4s"), filepath.Join(dir, "index.m3u8")).CombinedOutput()
	require.NoError(w.t, err, "%s", out)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(w.t, err)
		return b
	}
	rec := record0()
	m, err := hls.Master([]hls.Rendition{{ID: rendition, Track: "v0", Kind: hls.Video, Codecs: "avc1.42c015", Width: 426, Height: 240, Bandwidth: 500_000}})
	require.NoError(w.t, err)
	w.put(objects.MasterKey(asset, rec.Run, rec.Master), m)
	sum := sha256.Sum256(read("init.mp4"))
	initName := "init-" + hex.EncodeToString(sum[:4]) + ".mp4"
	w.put(objects.InitKey(asset, rec.Run, rendition, initName), read("init.mp4"))
	paths = append(paths, rendition+"/"+initName)
	lengths := regexp.MustCompile(`#EXTINF:([0-9.]+),`).FindAllSubmatch(read("index.m3u8"), -1)
	require.GreaterOrEqual(w.t, len(lengths), 3)
	at := int64(0)
	for n, l := range lengths {
		length, err := strconv.ParseFloat(string(l[1]), 64)
		require.NoError(w.t, err)
		b := read(fmt.Sprintf("%05d.m4s", n))
		path := hls.SegmentPath(n, 1, 0)
		w.put(objects.SegmentKey(asset, rec.Run, rendition, path), b)
		paths = append(paths, rendition+"/"+path)
		ms := int64(1000 * length)
		sum := sha256.Sum256(b)
		record := hls.Record{V: hls.RecordVersion, Asset: asset, Run: rec.Run, Track: "v0", Chunk: n, Attempt: 1, Start: at, Timescale: 1000, Target: 2, Last: n == len(lengths)-1,
			Renditions: map[string]hls.RenditionSegments{rendition: {Init: initName, Segments: []hls.Segment{{Duration: ms, Bytes: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}}}}}
		at += ms
		raw, err := record.Encode()
		require.NoError(w.t, err)
		w.put(objects.RecordKey(asset, rec.Run, "v0", n), raw)
	}
	rec.Duration = float64(at) / 1000
	w.publish(rec)
	return paths, rec.Duration
}

// TestChromiumPlaysOverHTTP2: our player, in a real browser, plays a film whose
// every part it has over HTTP/2.
func TestChromiumPlaysOverHTTP2(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	mux := http.NewServeMux()
	router := httptest.NewServer(mux)
	defer router.Close()
	paths, seconds := w.film()
	w.table.Regions[0].Router.URL = router.URL
	base := ""
	w.secure(false, func(c *Command) {
		base = "https://" + c.TLS.Listen
		w.table.Regions[0].Edges[0].URL = base
	})
	mux.Handle("/assets/", web.Assets())
	mux.HandleFunc("/watch", func(rw http.ResponseWriter, r *http.Request) {
		page := web.Page{Asset: asset, Title: "A film", State: web.StateReady, Duration: seconds, Master: base + "/v/-/" + asset + "/master.m3u8?p=eu-1",
			Routers: []string{router.URL}, Edges: []web.Edge{{Name: "eu-1", Region: "eu", Place: "Frankfurt", URL: base}}}
		if err := web.Player(rw, http.StatusOK, page); err != nil && r.Context().Err() == nil {
			t.Errorf("player page: %v", err)
		}
	})
	mux.HandleFunc("/steer", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Access-Control-Allow-Origin", "*")
		_, _ = io.WriteString(rw, `{"VERSION":1,"TTL":2,"PATHWAY-PRIORITY":["eu-1"]}`)
	})
	page := playertest.Open(t, router.URL+"/watch", browser.WithFlag("ignore-certificate-errors", true), browser.WithSize(640, 480, false))
	page.WaitPlaying(time.Minute)
	end := page.WaitEnded(time.Minute)
	require.Zero(t, end.Errors, "%+v", end)
	require.Positive(t, end.Frames)

	type resource struct {
		Path     string `json:"path"`
		Protocol string `json:"protocol"`
		Status   int    `json:"status"`
	}
	all := playertest.Eval[[]resource](page, `performance.getEntriesByType('resource').filter(e => e.name.startsWith('`+base+`/'))
		.map(e => ({path: new URL(e.name).pathname, protocol: e.nextHopProtocol, status: e.responseStatus}))`)
	over := map[string]string{}
	for _, r := range all {
		require.Equal(t, "h2", r.Protocol, r.Path)
		require.Equal(t, 200, r.Status, r.Path)
		over[strings.TrimPrefix(r.Path, "/v/-/"+asset+"/")] = r.Protocol
	}
	for _, path := range append(paths, "v240/index.m3u8") {
		require.Contains(t, over, "r1/"+path)
	}
	require.Contains(t, over, "master.m3u8")
}
