package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/client"
)

const (
	// watchedSeconds of the video that viewers watch again and again.
	watchedSeconds = 60
	watchedTitle   = "Video of drills, 60 s"
	privateTitle   = "Video of drills that needs a token"
	uploadSeconds  = 2
	assetPage      = 100
	public         = "public"
	private        = "private"
	makeTime       = 2 * time.Minute
	readyTime      = 4 * time.Minute
)

// makeVideo makes a test picture with a tone.
func makeVideo(ctx context.Context, file, size string, length int) error {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	seconds := strconv.Itoa(length)
	cmd := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size="+size+":rate=25:duration="+seconds,
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration="+seconds,
		"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k", "-movflags", "+faststart", file)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make a video with ffmpeg: %w\n%s", err, &out)
	}
	return nil
}

// prepare makes the creators' video, and finds or uploads what is watched and
// what nobody may watch.
func (r *Runner) prepare(ctx context.Context) error {
	r.template = filepath.Join(r.dir, "small.mp4")
	if err := makeVideo(ctx, r.template, "320x180", uploadSeconds); err != nil {
		return err
	}
	c := client.New(r.apis(""), r.Desc.APIKey)
	defer c.Close()
	if err := r.find(ctx, c); err != nil {
		return fmt.Errorf("look for the videos of earlier drills: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	if r.asset == "" {
		r.say("making and uploading %d s of video to watch", watchedSeconds)
		g.Go(func() (err error) {
			file := filepath.Join(r.dir, "watched.mp4")
			if err = makeVideo(ctx, file, "640x360", watchedSeconds); err == nil {
				r.asset, err = r.publish(ctx, c, file, watchedTitle, public)
			}
			return err
		})
	}
	if r.private == "" {
		g.Go(func() (err error) {
			r.private, err = r.publish(ctx, c, r.template, privateTitle, private)
			return err
		})
	}
	return g.Wait()
}

// find looks for the videos of earlier drills.
func (r *Runner) find(ctx context.Context, c *client.Client) error {
	for cursor := ""; ; {
		list, next, err := c.Assets(ctx, "ready", cursor, assetPage)
		if err != nil {
			return err
		}
		for _, a := range list {
			switch {
			case a.Title == watchedTitle && a.Visibility == public:
				r.asset = a.ID
			case a.Title == privateTitle && a.Visibility == private:
				r.private = a.ID
			}
		}
		if cursor = next; next == "" || r.asset != "" && r.private != "" {
			return nil
		}
	}
}

// publish uploads a video and waits until it is ready.
func (r *Runner) publish(ctx context.Context, c *client.Client, file, title, visibility string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	up, err := c.Upload(ctx, client.Upload{Path: file, Title: title, Visibility: visibility, StateDir: filepath.Join(r.dir, "state")})
	if err == nil {
		err = c.Follow(ctx, up.Asset, func(a client.Asset) (bool, error) {
			if a.Failure != nil {
				return true, errors.New(a.Failure.Code + ": " + a.Failure.Detail)
			}
			return a.State == "ready", nil
		})
	}
	if err != nil {
		return "", fmt.Errorf("upload %q: %w", title, err)
	}
	return up.Asset, nil
}

// apis are the URLs of all APIs, the nearest to a region first.
func (r *Runner) apis(near string) []string {
	var out []string
	for _, x := range r.Desc.Table.Nearest(near) {
		out = append(out, x.API)
	}
	return out
}

func (r *Runner) nearest(near string) []string {
	var out []string
	for _, x := range r.Desc.Table.Nearest(near) {
		out = append(out, x.Name)
	}
	return out
}
