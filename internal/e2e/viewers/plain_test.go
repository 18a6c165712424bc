package viewers

import (
	"bufio"
	"bytes"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/wan"
)

// maxSkipped is how many frames ffmpeg may skip: two segments.
const maxSkipped = 2 * 2 * 30

// TestPlainForm plays with ffmpeg, which knows no steering, while the region it
// plays from is lost.
func TestPlainForm(t *testing.T) {
	testenv.Long(t)
	s := needPlatform(t)
	for _, fault := range []string{"kill", "hang", "silence"} {
		t.Run(fault, func(t *testing.T) {
			s.restore(t)
			s.playPlain(t, fault)
			s.restore(t)
		})
	}
}

// playPlain plays the plain form in real time among the viewers near eu, which
// is lost in the middle.
func (s *isolated) playPlain(t *testing.T, fault string) {
	t.Helper()
	st, err := s.status()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(2*s.seconds)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+st.Namespaces[wan.ViewersNode("eu")],
		"ffmpeg", "-nostdin", "-v", "warning", "-re", "-rw_timeout", "2500000",
		"-i", s.Table.Regions[0].Router.URL+"/v/-/"+s.asset+"/master.m3u8?steering=0",
		"-map", "0:v:0", "-progress", "pipe:1", "-f", "null", "-")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	frames, at := 0, time.Duration(0)
	lost := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch name {
		case "frame":
			frames, err = strconv.Atoi(strings.TrimSpace(value))
			require.NoError(t, err)
		case "out_time_us":
			us, err := strconv.Atoi(value)
			require.NoError(t, err)
			at = time.Duration(us) * time.Microsecond
		}
		if frames > 12*30 && !lost {
			lost = true
			s.Regions(t, fault, "eu")
		}
	}
	require.NoError(t, cmd.Wait(), "%s", &log)
	require.True(t, lost, "%d frames only", frames)
	testenv.Figure(t, "ffmpeg, plain form, eu lost by "+fault, "%d of %d frames, to %.2f s", frames, s.frames, at.Seconds())
	t.Logf("ffmpeg: %s", &log)
	// A segment that was on its way may be lost: ffmpeg doesn't ask for it again.
	require.InDelta(t, s.seconds, at.Seconds(), 0.1, "%s", &log)
	require.GreaterOrEqual(t, frames, s.frames-maxSkipped, "%s", &log)
}
