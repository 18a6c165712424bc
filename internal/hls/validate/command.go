package validate

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"
)

// Command is `meridian hls`.
type Command struct {
	Check CheckCommand `cmd:"" help:"Read a stream as a player would and name everything wrong with it."`
}

// CheckCommand is `meridian hls check`.
type CheckCommand struct {
	Stream    string        `arg:"" help:"URL of a playlist, or a directory that holds one." placeholder:"URL|DIR"`
	Playlists bool          `help:"Read playlists only, no segments."`
	Follow    bool          `help:"Read growing playlists again until they have ended."`
	Timeout   time.Duration `help:"The longest the check may take." default:"1h"`
	// Out defaults to the process's own.
	Out io.Writer `kong:"-"`
}

// Run prints the report; its error says how many problems there are.
func (c *CheckCommand) Run(ctx context.Context) (err error) {
	out := c.Out
	if out == nil {
		out = os.Stdout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var open Opener = HTTP{}
	var u *url.URL
	if strings.HasPrefix(c.Stream, "http://") || strings.HasPrefix(c.Stream, "https://") {
		if u, err = url.Parse(c.Stream); err != nil {
			return err
		}
	} else {
		dir, at, err := OpenDir(c.Stream)
		if err != nil {
			return err
		}
		defer dir.Close()
		open, u = dir, at
	}
	r, err := Check(ctx, open, u, Options{Playlists: c.Playlists, Follow: c.Follow})
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		if _, err := fmt.Fprintln(out, p); err != nil {
			return err
		}
	}
	state := "complete"
	if !r.Ended {
		state = "still growing"
	}
	if _, err := fmt.Fprintf(out, "%d playlists, %d segments, %.3f s, %s\n", r.Playlists, r.Segments, r.Duration, state); err != nil {
		return err
	}
	switch n := len(r.Problems); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s: 1 problem", c.Stream)
	default:
		return fmt.Errorf("%s: %d problems", c.Stream, n)
	}
}
