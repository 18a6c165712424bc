package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/meridian-video/meridian/internal/client"
)

// Assets is `meridian assets`.
type Assets struct {
	List   AssetsList   `cmd:"" default:"withargs" help:"List assets, newest first."`
	Show   AssetsShow   `cmd:"" help:"Show one asset."`
	Delete AssetsDelete `cmd:"" help:"Delete assets; playback ends at once in every region."`
	Encode AssetsEncode `cmd:"" help:"Encode ready assets anew, from their source; viewers see what there is until it is complete."`
	Runs   AssetsRuns   `cmd:"" help:"List an asset's encodes."`
	Cancel AssetsCancel `cmd:"" help:"Cancel an encode that was to replace the one viewers see."`
}

// output is how the subcommands print.
type output struct {
	JSON bool `name:"json" help:"Print one JSON document a line."`
	// Out and Err default to the process's own.
	Out io.Writer `kong:"-"`
	Err io.Writer `kong:"-"`
}

// AssetsList is `meridian assets list`.
type AssetsList struct {
	client.Config `embed:""`
	output        `embed:""`
	State         string `help:"Only assets in this state: waiting, uploading, received, playable, ready or failed." enum:",waiting,uploading,received,playable,ready,failed" default:""`
	Limit         int    `help:"How many at most; 0 for all." default:"50"`
}

// Run lists.
func (l *AssetsList) Run(ctx context.Context) error {
	if l.Limit < 0 {
		return errors.New("--limit: want 0 or more")
	}
	c, err := l.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	p := newPrinter(l.Out, l.Err, l.JSON)
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	cursor, n := "", 0
	for {
		page := 200
		if l.Limit > 0 {
			page = min(page, l.Limit-n)
		}
		list, next, err := c.Assets(ctx, l.State, cursor, page)
		if err != nil {
			return explain(err, "assets")
		}
		for _, a := range list {
			p.json(a)
			if !l.JSON {
				if n == 0 {
					fmt.Fprintln(w, "ID\tSTATE\tLENGTH\tSIZE\tCREATED\tTITLE")
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, state(a), length(a), size(a), humanize.Time(a.CreatedAt), plain(a.Title))
			}
			n++
		}
		if next == "" || l.Limit > 0 && n >= l.Limit {
			if n == 0 {
				p.line("No assets yet. Upload one: meridian upload FILE")
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if next != "" {
				p.line("More with --limit.")
			}
			return nil
		}
		cursor = next
	}
}

// AssetsShow is `meridian assets show`.
type AssetsShow struct {
	client.Config `embed:""`
	output        `embed:""`
	ID            string `arg:"" help:"Asset id."`
}

// Run shows.
func (s *AssetsShow) Run(ctx context.Context) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := c.Asset(ctx, s.ID)
	if err != nil {
		return explain(err, "asset "+s.ID)
	}
	p := newPrinter(s.Out, s.Err, s.JSON)
	p.json(a)
	if s.JSON {
		return nil
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("id", a.ID)
	row("title", plain(a.Title))
	row("state", state(a))
	if a.Failure != nil {
		row("why", a.Failure.Detail)
	}
	row("visibility", a.Visibility)
	where := a.Placement.Mode
	if len(a.Placement.Regions) > 0 {
		where += " (" + strings.Join(a.Placement.Regions, ", ") + ")"
	}
	row("placement", fmt.Sprintf("%s, acknowledged by %d", where, a.Placement.Copies))
	row("length", length(a))
	row("size", size(a))
	row("created", a.CreatedAt.Local().Format(time.DateTime)+" in "+a.Region)
	if a.ReceivedAt != nil && a.PlayableAt != nil {
		row("playable", short(a.PlayableAt.Sub(*a.ReceivedAt))+" after it was received")
	}
	if a.ReceivedAt != nil && a.ReadyAt != nil {
		row("ready", short(a.ReadyAt.Sub(*a.ReceivedAt))+" after it was received")
	}
	row("watch", a.Playback.Watch)
	if a.Playback.Master != nil {
		row("HLS", *a.Playback.Master)
	}
	if a.Playback.Poster != nil {
		row("poster", *a.Playback.Poster)
	}
	return w.Flush()
}

// AssetsDelete is `meridian assets delete`.
type AssetsDelete struct {
	client.Config `embed:""`
	output        `embed:""`
	IDs           []string `arg:"" name:"id" help:"Asset ids."`
}

// Run deletes.
func (d *AssetsDelete) Run(ctx context.Context) error {
	c, err := d.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	p := newPrinter(d.Out, d.Err, d.JSON)
	var errs []error
	for _, id := range d.IDs {
		if err := c.DeleteAsset(ctx, id); err != nil {
			errs = append(errs, explain(err, "asset "+id))
			continue
		}
		p.json(map[string]any{"event": "deleted", "asset": id})
		p.line("%s deleted %s", p.mark("✓"), id)
	}
	return errors.Join(errs...)
}

// AssetsEncode is `meridian assets encode`.
type AssetsEncode struct {
	client.Config `embed:""`
	output        `embed:""`
	Profile       string   `help:"Encoding profile. Without it: the one the asset has."`
	IDs           []string `arg:"" name:"id" help:"Asset ids."`
}

// Run begins encodes.
func (e *AssetsEncode) Run(ctx context.Context) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	p := newPrinter(e.Out, e.Err, e.JSON)
	var errs []error
	for _, id := range e.IDs {
		r, err := c.Encode(ctx, id, e.Profile)
		if err != nil {
			errs = append(errs, explain(err, "asset "+id))
			continue
		}
		p.json(r)
		p.line("%s %s is encoded anew as %s, with profile %s", p.mark("✓"), id, r.Run, r.Profile)
	}
	return errors.Join(errs...)
}

// AssetsRuns is `meridian assets runs`.
type AssetsRuns struct {
	client.Config `embed:""`
	output        `embed:""`
	ID            string `arg:"" help:"Asset id."`
}

// Run lists.
func (r *AssetsRuns) Run(ctx context.Context) error {
	c, err := r.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Runs(ctx, r.ID)
	if err != nil {
		return explain(err, "asset "+r.ID)
	}
	p := newPrinter(r.Out, r.Err, r.JSON)
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	if !r.JSON {
		fmt.Fprintln(w, "RUN\tSTATE\tPROFILE\tBEGUN\tWHY")
	}
	for _, x := range list {
		p.json(x)
		if r.JSON {
			continue
		}
		state, why := x.State, ""
		if x.Current {
			state += ", shown"
		}
		if x.Failure != nil {
			why = x.Failure.Code
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", x.Run, state, x.Profile, humanize.Time(x.CreatedAt), why)
	}
	return w.Flush()
}

// AssetsCancel is `meridian assets cancel`.
type AssetsCancel struct {
	client.Config `embed:""`
	output        `embed:""`
	ID            string `arg:"" help:"Asset id."`
	RunName       string `arg:"" name:"run" help:"Run, as in r2."`
}

// Run cancels.
func (a *AssetsCancel) Run(ctx context.Context) error {
	c, err := a.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CancelRun(ctx, a.ID, a.RunName); err != nil {
		return explain(err, "run "+a.RunName+" of "+a.ID)
	}
	p := newPrinter(a.Out, a.Err, a.JSON)
	p.json(map[string]any{"event": "cancelled", "asset": a.ID, "run": a.RunName})
	p.line("%s cancelled %s of %s", p.mark("✓"), a.RunName, a.ID)
	return nil
}

func state(a client.Asset) string {
	switch {
	case a.Failure != nil:
		return a.State + ": " + a.Failure.Code
	case a.Progress == nil:
	case a.State == "uploading":
		return fmt.Sprintf("%s %.0f%%", a.State, a.Progress.Upload*100)
	case a.State == "received" || a.State == "playable":
		encoded := fmt.Sprintf("%s, encoded %.0f%%", a.State, a.Progress.Encode*100)
		if left := a.Progress.SecondsLeft; left != nil {
			encoded += ", " + short(time.Duration(*left)*time.Second) + " left"
		}
		return encoded
	}
	return a.State
}

func length(a client.Asset) string {
	if a.Duration == nil {
		return "-"
	}
	d := time.Duration(*a.Duration * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

func size(a client.Asset) string {
	if a.Size == nil {
		return "-"
	}
	return humanize.Bytes(uint64(*a.Size))
}

// plain keeps titles from moving the cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
