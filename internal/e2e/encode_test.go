package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestEncodersLostInMidWork kills one encoder and freezes another past its
// lease while they work on the same video.
func TestEncodersLostInMidWork(t *testing.T) {
	own := platform.One(t, func(p stack.Process) bool { return p.Is("encoder") })
	second := secondEncoder(t, own)

	file := longer(t, "small-426x240-27s.mp4", 300)
	want := stack.Frames(t, file)
	up := platform.upload(t, file)
	playable := up.until("playable", time.Minute)

	// Both are at work on the ladder now; the platform's own dies, the other freezes.
	awaitFFmpeg(t, second.Process.Pid)
	signalled(t, own, syscall.SIGKILL)
	require.NoError(t, second.Process.Signal(syscall.SIGSTOP))
	// Longer than a lease, so that what it held is given to another.
	time.Sleep(20 * time.Second)
	require.NoError(t, second.Process.Signal(syscall.SIGCONT))

	ready := up.until("ready", 4*time.Minute)
	require.Equal(t, playable.Asset, ready.Asset)
	require.Equal(t, want, stack.Frames(t, master(ready.Asset)))
	requireWinnersOnly(t, ready.Asset)
}

// secondEncoder runs one more encoder beside the platform's own.
func secondEncoder(t *testing.T, own stack.Process) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(platform.Bin, "encoder")
	for _, e := range own.Env {
		name, _, _ := strings.Cut(e, "=")
		if name != "MERIDIAN_SCRATCH_DIR" && name != "MERIDIAN_ADMIN_LISTEN" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "MERIDIAN_SCRATCH_DIR="+t.TempDir(), "MERIDIAN_ADMIN_LISTEN=127.0.0.1:0")
	log := &testenv.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("second encoder: %v\n%s", err, log)
		}
	})
	return cmd
}

// awaitFFmpeg waits until a process has an ffmpeg of its own.
func awaitFFmpeg(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		out, err := exec.Command("ps", "-o", "comm=", "--ppid", itoa(pid)).Output()
		return err == nil && strings.Contains(string(out), "ffmpeg")
	}, time.Minute, 50*time.Millisecond, "the second encoder got no work")
}

var segment = regexp.MustCompile(`/([0-9]{5})-([0-9]+)/[0-9]{5}\.m4s$`)

// requireWinnersOnly checks that every playlist names one attempt per chunk, and
// that every object it names is there.
func requireWinnersOnly(t *testing.T, asset string) {
	t.Helper()
	_, header, _ := get(t, master(asset))
	_, _, body := get(t, header.Get("Location"))
	info, err := hls.CheckMaster(body)
	require.NoError(t, err)
	for _, v := range info.Variants {
		winner := map[string]string{}
		_, _, body := get(t, v.URI)
		media, err := hls.CheckMedia(body)
		require.NoError(t, err)
		base := strings.TrimSuffix(v.URI, "index.m3u8")
		for _, s := range media.Segments {
			m := segment.FindStringSubmatch("/" + s.URI)
			require.NotNil(t, m, s.URI)
			if had, ok := winner[m[1]]; ok {
				require.Equal(t, had, m[2], "%s chunk %s", v.URI, m[1])
			}
			winner[m[1]] = m[2]
			status, _, _ := get(t, base+s.URI, "Range", "bytes=0-0")
			require.Equal(t, 206, status, base+s.URI)
		}
	}
}

// TestUploadCutHalfwayResumes kills the uploading program in the middle.
func TestUploadCutHalfwayResumes(t *testing.T) {
	file := t.TempDir() + "/half.mp4"
	// Slow enough to be cut: a large file of real video.
	stack.FF(t, "ffmpeg", "-v", "error", "-stream_loop", "60", "-i", sample("bbb-1080p30.mp4"), "-c", "copy", "-movflags", "+faststart", file)
	st, err := os.Stat(file)
	require.NoError(t, err)
	require.Greater(t, st.Size(), int64(100<<20))

	first := platform.upload(t, file)
	var asset string
	require.Eventually(t, func() bool {
		status, out := platform.call(t, "GET", "/v1/assets?limit=1&state=uploading", "")
		require.Equal(t, 200, status)
		list := out["assets"].([]any)
		if len(list) == 0 {
			return false
		}
		asset = list[0].(map[string]any)["id"].(string)
		return true
	}, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, first.cmd.Process.Kill())
	require.Error(t, <-first.ended)

	again := platform.upload(t, file, "--no-wait")
	received := again.until("received", 2*time.Minute)
	require.Equal(t, asset, received.Asset, "the same upload goes on")
	requireSameSource(t, asset, file)
	status, _ := platform.call(t, "DELETE", "/v1/assets/"+asset, "")
	require.Equal(t, 204, status)
}
