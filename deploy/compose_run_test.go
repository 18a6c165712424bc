package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

var assetID = regexp.MustCompile(`[a-z2-7]{26}`)

// running is the platform of docker-compose.multiregion.yml.
type running struct {
	docker, compose string
	profiles        []string
}

func (r running) run(ctx context.Context, limit time.Duration, name string, args ...string) (string, error) {
	return output(ctx, "..", limit, name, args...)
}

// output runs a command in dir for at most limit and returns all it wrote.
func output(ctx context.Context, dir string, limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &out, &out, 5*time.Second
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

func (r running) up(ctx context.Context, limit time.Duration, args ...string) error {
	all := []string{"-f", "docker-compose.multiregion.yml"}
	for _, p := range r.profiles {
		all = append(all, "--profile", p)
	}
	_, err := r.run(ctx, limit, r.compose, append(append(all, "up", "--detach", "--wait"), args...)...)
	return err
}

// viewer runs a shell command as somebody near a region.
func (r running) viewer(ctx context.Context, limit time.Duration, near, command string) (string, error) {
	return r.run(ctx, limit, r.docker, "exec", "meridian-viewer-"+near+"-1", "sh", "-ec", command)
}

// startContainers brings up three regions and takes them away after the test.
func startContainers(t *testing.T, profiles ...string) running {
	t.Helper()
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Skip("a Docker engine is started by root")
	}
	r := running{docker: "docker", profiles: profiles}
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		r.docker = "/usr/bin/docker"
	}
	out, err := r.run(t.Context(), 45*time.Minute, "sh", "deploy/compose/local.sh", "prepare")
	require.NoError(t, err, out)
	out, err = r.run(t.Context(), 5*time.Minute, "go", "run", "./tools/build", "-path", "compose")
	require.NoError(t, err)
	r.compose = strings.TrimSpace(out)
	t.Cleanup(func() {
		if t.Failed() {
			logs, err := r.run(context.Background(), time.Minute, r.compose, "-f", "docker-compose.multiregion.yml", "logs", "--no-color", "--tail", "40")
			t.Log(logs, err)
		}
		_, err := r.run(context.Background(), 5*time.Minute, r.compose, "-f", "docker-compose.multiregion.yml", "--profile", "*", "down", "--volumes")
		if err != nil && strings.Contains(err.Error(), "has active endpoints") {
			// The engine remembers ends of containers whose processes were killed, until it is
			// started anew: a network without anything on it stays.
			t.Log(err)
			return
		}
		require.NoError(t, err)
	})
	start := time.Now()
	require.NoError(t, r.up(t.Context(), 15*time.Minute))
	testenv.Figure(t, "three regions in containers ready", "%s", time.Since(start).Round(time.Second))
	return r
}

// The main job in containers, and the loss of a region under a viewer and a creator.
func TestContainersLoseARegion(t *testing.T) {
	r := startContainers(t, "viewers")
	ctx := t.Context()
	upload := func(near, source string) string {
		t.Helper()
		_, err := r.viewer(ctx, 2*time.Minute, near, source)
		require.NoError(t, err)
		out, err := r.viewer(ctx, 5*time.Minute, near, "meridian upload v.mp4")
		require.NoError(t, err)
		asset := assetID.FindString(out)
		require.NotEmpty(t, asset, out)
		return asset
	}
	asset := upload("eu", "ffmpeg -v error -y -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440 -t 20 -c:v libx264 -preset ultrafast -c:a aac v.mp4")

	// Everybody is sent to the own region, by redirect and by DNS.
	for i, near := range composeTable(t).Names() {
		own := fmt.Sprintf("198.18.%d.", i+1)
		master := fmt.Sprintf("http://198.18.%d.3:8081/v/-/%s/master.m3u8", i+1, asset)
		out, err := r.viewer(ctx, 30*time.Second, near, "curl -fsS -o /dev/null -w '%{redirect_url}' "+master)
		require.NoError(t, err)
		require.Contains(t, out, "http://"+own)
		out, err = r.viewer(ctx, 30*time.Second, near, "dig +short edge.meridian.test")
		require.NoError(t, err)
		require.Contains(t, out, own)
		out, err = r.viewer(ctx, time.Minute, near, "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 '"+master+"?steering=0'")
		require.NoError(t, err)
		require.Contains(t, out, "h264")
		require.Contains(t, out, "aac")
	}

	// A viewer near us watches by way of eu's router, a creator there sends a large file; then us is gone.
	// Some 300 MB: it must still be on its way when the region dies.
	_, err := r.viewer(ctx, 4*time.Minute, "us", "ffmpeg -v error -y -f lavfi -i testsrc2=size=1280x720:rate=25:duration=15 -vf noise=alls=60:allf=t -c:v libx264 -preset ultrafast -b:v 160M v.mp4")
	require.NoError(t, err)
	region, err := r.run(ctx, time.Minute, r.docker, "ps", "--quiet", "--filter", "label="+regionLabel+"=us")
	require.NoError(t, err)
	type result struct {
		out string
		err error
	}
	watch, send := make(chan result, 1), make(chan result, 1)
	go func() {
		out, err := r.viewer(ctx, 3*time.Minute, "us", "ffmpeg -v error -xerror -http_persistent 0 -re -i 'http://198.18.1.3:8081/v/-/"+asset+"/master.m3u8?steering=0' -f null -")
		watch <- result{out, err}
	}()
	go func() {
		out, err := r.viewer(ctx, 8*time.Minute, "us", "meridian upload v.mp4")
		send <- result{out, err}
	}()
	// Both began together, so the viewer is watching when the upload has arrived in part.
	require.Eventually(t, func() bool {
		out, err := r.viewer(ctx, 20*time.Second, "eu", "meridian assets list --json")
		return err == nil && strings.Contains(out, `"uploading"`)
	}, time.Minute, 100*time.Millisecond, "no upload under way")
	_, err = r.run(ctx, time.Minute, r.docker, append([]string{"kill"}, strings.Fields(region)...)...)
	require.NoError(t, err)
	killed := time.Now()
	require.Eventually(t, func() bool {
		out, err := r.viewer(ctx, 10*time.Second, "us", "curl -fsS -m 3 -o /dev/null -w '%{redirect_url}' http://198.18.1.3:8081/v/-/"+asset+"/master.m3u8")
		return err == nil && !strings.Contains(out, "http://198.18.2.")
	}, time.Minute, 100*time.Millisecond)
	testenv.Figure(t, "new session routed elsewhere after the kill", "%s", time.Since(killed).Round(100*time.Millisecond))
	w := <-watch
	require.NoError(t, w.err)
	require.Empty(t, w.out, "the viewer saw errors")
	s := <-send
	require.NoError(t, s.err)
	second := assetID.FindString(s.out)
	require.NotEmpty(t, second)
	out, err := r.viewer(ctx, time.Minute, "us", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 'http://198.18.1.3:8081/v/-/"+second+"/master.m3u8?steering=0'")
	require.NoError(t, err)
	require.Contains(t, out, "h264")

	start := time.Now()
	require.NoError(t, r.up(ctx, 10*time.Minute))
	testenv.Figure(t, "killed region ready again", "%s", time.Since(start).Round(time.Second))
}

// TestDrillsInContainers loses regions and processes of containers as drills do.
func TestDrillsInContainers(t *testing.T) {
	r := startContainers(t)
	out, err := r.run(t.Context(), 30*time.Minute, "go", "run", ".", "drill", "run", "--compose", "docker-compose.multiregion.yml",
		"--out", filepath.Join(t.TempDir(), "report"),
		// 27 containers, and not this machine's processors, are what is drilled.
		"--viewers", "0.1", "--no-browsers", "control", "kill-region", "hang-region", "silence-region", "kill-leader",
		"kill-edge", "kill-encoder", "router-lost", "power-loss", "rolling-restart", "kill-postgres", "hang-postgres",
		"lose-nats", "hang-objects", "slow-objects", "lose-etcd", "pauses")
	t.Log(out)
	require.NoError(t, err)
}
