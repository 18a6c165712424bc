package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/meridian-video/meridian/internal/client"
)

// Upload is `meridian upload`.
type Upload struct {
	client.Config `embed:""`
	Files         []string `arg:"" name:"file" help:"Video and audio files. Running the same command again continues what was cut off."`
	Title         string   `help:"Title; default: the file's name."`
	Visibility    string   `help:"Who may watch: public, unlisted or private." enum:"public,unlisted,private" default:"public"`
	Profile       string   `help:"Encoding profile, one of those the encoders know; default: theirs."`
	JSON          bool     `name:"json" help:"Print one JSON document a line."`
	NoWait        bool     `help:"Return once the bytes are received, without waiting until they play."`

	// Out and Err default to the process's own.
	Out io.Writer `kong:"-"`
	Err io.Writer `kong:"-"`
}

// Validate lists every problem.
func (u *Upload) Validate() error {
	if u.Title != "" && len(u.Files) > 1 {
		return errors.New("--title: give it with one file")
	}
	return nil
}

// Run uploads the files one after the other.
func (u *Upload) Run(ctx context.Context) error {
	c, err := u.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	p := newPrinter(u.Out, u.Err, u.JSON)
	failed := 0
	for _, file := range u.Files {
		err := u.one(ctx, c, p, file)
		if err == nil {
			continue
		}
		err = explain(err, file)
		if ctx.Err() != nil {
			err = fmt.Errorf("%s: interrupted; run the same command again to continue: %w", filepath.Base(file), ctx.Err())
		}
		p.failed(file, err)
		if len(u.Files) == 1 || ctx.Err() != nil {
			return err
		}
		fmt.Fprintln(p.err, "meridian:", err)
		failed++
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d files failed; run the same command again to continue", failed, len(u.Files))
	}
	return nil
}

func (u *Upload) one(ctx context.Context, c *client.Client, p *printer, file string) error {
	began := time.Now()
	name := filepath.Base(file)
	bar := p.bar(name)
	up := client.Upload{Path: file, Title: u.Title, Visibility: u.Visibility, Profile: u.Profile, Progress: bar.set,
		Started: func(asset string, offset int64, resumed bool) {
			bar.start(offset)
			p.json(map[string]any{"event": "uploading", "file": file, "asset": asset, "offset": offset})
			if resumed {
				p.line("%s: continuing at %s", name, humanize.Bytes(uint64(offset)))
			}
		}}
	r, err := c.Upload(ctx, up)
	bar.done()
	if err != nil {
		return err
	}
	took := time.Since(began)
	p.json(map[string]any{"event": "received", "file": file, "asset": r.Asset, "size": r.Size, "seconds": took.Seconds()})
	if sent := r.Size - r.Resumed; sent > 0 {
		p.line("%s uploaded %s: %s in %s", p.mark("✓"), name, humanize.Bytes(uint64(sent)), short(took))
	} else {
		p.line("%s %s was uploaded before", p.mark("✓"), name)
	}
	if u.NoWait {
		p.line("  asset %s; follow it with: meridian assets show %s", r.Asset, r.Asset)
		return r.Forget()
	}
	return u.follow(ctx, c, p, file, r)
}

// follow reports states until the asset is ready or has failed.
func (u *Upload) follow(ctx context.Context, c *client.Client, p *printer, file string, r client.Result) error {
	began := time.Now()
	bar := p.bar("  encoding")
	played := false
	playable := func(a client.Asset) {
		if played {
			return
		}
		played = true
		bar.done()
		p.json(map[string]any{"event": "playable", "file": file, "asset": a.ID, "watch": a.Playback.Watch, "master": a.Playback.Master, "seconds": time.Since(began).Seconds()})
		p.line("%s playable after %s: %s", p.mark("▶"), short(time.Since(began)), a.Playback.Watch)
	}
	err := c.Follow(ctx, r.Asset, func(a client.Asset) (bool, error) {
		if a.Progress != nil && a.Progress.FramesTotal > 0 {
			bar.percent(a.Progress.Encode, a.Progress.SecondsLeft)
		}
		switch a.State {
		case "failed":
			f := a.Failure
			if f == nil {
				f = &client.Failure{Code: "internal", Detail: "no reason was given"}
			}
			return true, errors.Join(&assetFailure{asset: a.ID, Failure: *f}, r.Forget())
		case "playable":
			playable(a)
		case "ready":
			playable(a)
			bar.done()
			p.json(map[string]any{"event": "ready", "file": file, "asset": a.ID, "watch": a.Playback.Watch, "master": a.Playback.Master, "seconds": time.Since(began).Seconds(), "duration": a.Duration})
			p.line("%s ready after %s", p.mark("✓"), short(time.Since(began)))
			return true, r.Forget()
		}
		return false, nil
	})
	bar.done()
	return err
}

func short(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func orStd(w io.Writer, std *os.File) io.Writer {
	if w == nil {
		return std
	}
	return w
}
