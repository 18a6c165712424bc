package e2e

import (
	"bytes"
	"fmt"
	"image/jpeg"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

// watch opens an asset's page in a browser.
func watch(t *testing.T, up update) *playertest.Page {
	t.Helper()
	require.NotEmpty(t, up.WatchURL, up.Raw)
	// A small window: the browser draws on the same two cores the encoder works on.
	return playertest.Open(t, up.WatchURL, browser.WithSize(640, 480, false))
}

// played asserts that a page showed the whole video: at least the given share
// of the frames was decoded and nothing stalled.
func played(t *testing.T, page *playertest.Page, want int, timeout time.Duration) browser.State {
	t.Helper()
	s := page.WaitEnded(timeout)
	t.Logf("played: %d frames of %d (%d dropped), stalls %d (%.1f s), switches %d, edge %s", s.Frames, want, s.Dropped, s.Stalls, s.StallSeconds, s.Switches, s.Edge)
	require.Zero(t, s.Stalls, "%+v", s)
	// A switch of rungs decodes a few frames twice and may skip the last ones of
	// the rung it leaves; nothing else may be missing.
	require.GreaterOrEqual(t, s.Frames, want*98/100, "%+v", s)
	return s
}

func TestPublishAndPlay(t *testing.T) {
	file := sample("bbb-1080p30.mp4")
	up := platform.upload(t, file)
	playable := up.until("playable", time.Minute)
	page := watch(t, playable)
	page.WaitPlaying(30 * time.Second)
	s := played(t, page, 300, time.Minute)
	require.Contains(t, []string{"eu-1", "eu-2"}, s.Edge)
	ready := up.until("ready", 2*time.Minute)
	require.NoError(t, <-up.ended)

	// Another player: every frame of every variant, through router and edge.
	require.Equal(t, 300, stack.Frames(t, master(ready.Asset)))
	status, header, _ := get(t, master(ready.Asset))
	require.Equal(t, 302, status)
	require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"))
	status, _, body := get(t, header.Get("Location"))
	require.Equal(t, 200, status)
	info, err := hls.CheckMaster(body)
	require.NoError(t, err)
	require.Len(t, info.Variants, 2*len(info.Variants)/2)
	for _, v := range info.Variants {
		_, _, body := get(t, v.URI)
		media, err := hls.CheckMedia(body)
		require.NoError(t, err)
		require.True(t, media.Ended)
		require.InDelta(t, 10, media.Duration(), 0.1)
	}

	// A player that winds shows keyframes alone: a byte range of each segment.
	require.Len(t, info.IFrames, len(info.Variants))
	for _, i := range info.IFrames {
		status, _, body := get(t, i.URI)
		require.Equal(t, 200, status, i.URI)
		list, err := hls.CheckMedia(body)
		require.NoError(t, err)
		require.Len(t, list.Segments, 5)
		last, base := list.Segments[4], strings.TrimSuffix(i.URI, hls.IFrameName)
		_, _, init := get(t, base+last.Map)
		status, _, frame := get(t, base+last.URI, "Range", fmt.Sprintf("bytes=%d-%d", last.Offset, last.Offset+last.Length-1))
		require.Equal(t, 206, status)
		file := filepath.Join(t.TempDir(), "frame.mp4")
		require.NoError(t, os.WriteFile(file, append(init, frame...), 0o600))
		require.Equal(t, 1, stack.Frames(t, file))
	}

	// Pictures follow; creators and the page are told of them.
	var poster string
	require.Eventually(t, func() bool {
		_, a := platform.call(t, http.MethodGet, "/v1/assets/"+ready.Asset, "")
		poster, _ = a["playback"].(map[string]any)["poster"].(string)
		return poster != ""
	}, time.Minute, 200*time.Millisecond)
	_, header, _ = get(t, poster)
	status, header, body = get(t, header.Get("Location"))
	require.Equal(t, []any{200, "image/jpeg"}, []any{status, header.Get("Content-Type")})
	picture, err := jpeg.DecodeConfig(bytes.NewReader(body))
	require.NoError(t, err)
	require.Equal(t, []int{1280, 720}, []int{picture.Width, picture.Height})
	require.Eventually(t, func() bool {
		_, _, body := get(t, platform.region().Router.URL+"/watch/"+ready.Asset)
		return strings.Contains(string(body), strings.TrimPrefix(poster, platform.region().Router.URL))
	}, 20*time.Second, 200*time.Millisecond, "the page has no poster")
}

func TestEdgeKilledInMidPlay(t *testing.T) {
	file := withTone(t, "bbb-1080p30.mp4", 60)
	want := stack.Frames(t, file)
	up := platform.upload(t, file)
	page := watch(t, up.until("playable", time.Minute))
	page.WaitPosition(12, time.Minute)
	serving := page.State().Edge
	theEdge := func(p stack.Process) bool { return p.Is("edge-cache") && p.Has("MERIDIAN_EDGE="+serving) }
	killed := platform.One(t, theEdge)
	signalled(t, killed, syscall.SIGKILL)
	// The supervisor brings it back in half a second, which a player that has
	// its buffer full may not notice: it dies again until this one has.
	page.Wait("at the sibling", 20*time.Second, func(s browser.State) bool {
		if s.Edge != serving {
			return true
		}
		for _, p := range platform.Processes(theEdge) {
			// It may have ended meanwhile.
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				require.ErrorIs(t, err, syscall.ESRCH)
			}
		}
		return false
	})

	again := platform.One(t, theEdge)
	require.NotEqual(t, killed.PID, again.PID)
	ready := up.until("ready", 2*time.Minute)
	require.NoError(t, stack.Check(t.Context(), master(ready.Asset)))
	t.Parallel() // it plays on while other tests run
	played(t, page, want, 3*time.Minute)
}

func TestPlayingStartsBeforeTheEncodeEnds(t *testing.T) {
	file := withTone(t, "small-426x240-27s.mp4", 120)
	want := stack.Frames(t, file)
	up := platform.upload(t, file)
	page := watch(t, up.until("playable", time.Minute))
	page.WaitPlaying(30 * time.Second)
	select {
	case u := <-up.updates:
		require.NotEqual(t, "ready", u.State, "the whole encode was faster than starting a browser")
	default:
	}
	// The growing playlist never takes anything back, and is right at all times.
	stream := master(assetOf(t, up))
	checked := make(chan error, 1)
	go func() { checked <- stack.Check(t.Context(), stream) }()
	_, header, _ := get(t, stream)
	_, _, body := get(t, header.Get("Location"))
	info, err := hls.CheckMaster(body)
	require.NoError(t, err)
	var last hls.MediaInfo
	grew := 0
	require.Eventually(t, func() bool {
		_, _, body := get(t, info.Variants[0].URI)
		now, err := hls.CheckMedia(body)
		require.NoError(t, err)
		if len(last.Segments) > 0 {
			require.NoError(t, hls.CheckGrown(last, now))
			if len(now.Segments) > len(last.Segments) {
				grew++
			}
		}
		last = now
		return now.Ended
	}, 3*time.Minute, 300*time.Millisecond)
	require.Positive(t, grew, "the playlist was complete at once")
	require.InDelta(t, 120, last.Duration(), 0.2)
	require.NoError(t, <-checked)
	up.until("ready", time.Minute)
	t.Parallel() // it plays on while other tests run
	played(t, page, want, 4*time.Minute)
}

// assetOf is the newest asset of the platform.
func assetOf(t *testing.T, _ *upload) string {
	t.Helper()
	status, out := platform.call(t, "GET", "/v1/assets?limit=1", "")
	require.Equal(t, 200, status)
	return out["assets"].([]any)[0].(map[string]any)["id"].(string)
}

func TestEverySampleBecomesReadyAndPlays(t *testing.T) {
	for _, name := range []string{"small-426x240-27s.mp4", "bbb-rotated-180.mov", "vp9-in-mp4.mp4", "chaplin-mp3audio.mp4", "bikes-noaudio.mp4", "no-duration.webm"} {
		t.Run(name, func(t *testing.T) {
			want := stack.Frames(t, sample(name))
			up := platform.upload(t, sample(name))
			ready := up.until("ready", 3*time.Minute)
			require.NoError(t, <-up.ended)
			t.Parallel() // encoding is done: as many play at a time as there are cores
			page := watch(t, ready)
			page.WaitPlaying(30 * time.Second)
			played(t, page, want, 2*time.Minute)
			require.Equal(t, want, stack.Frames(t, master(ready.Asset)))
		})
	}
}
