package keyset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is `meridian keys`.
type Command struct {
	List   ListCommand   `cmd:"" help:"Show the keys that edges, routers and APIs trust."`
	Rotate RotateCommand `cmd:"" help:"Make a new key, publish it, and put its private half into the secrets directory."`
	Revoke RevokeCommand `cmd:"" help:"End a key, what it has signed, and the sessions that began with it."`
}

// Settings of every subcommand.
type Settings struct {
	Secrets string         `help:"Secrets directory: secrets below the state of meridian up, or keys below the output of meridian provision." required:"" env:"MERIDIAN_SECRETS" placeholder:"DIR"`
	Regions string         `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	S3      objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`

	// Out defaults to standard output.
	Out io.Writer `kong:"-"`
}

// timeout bounds one command.
const timeout = 30 * time.Second

// settle is how long edges and routers may take to read a new set; a command
// ends only then, so that what is restarted after it meets nobody with the old one.
const settle = 5 * time.Second

func (s *Settings) with(ctx context.Context, f func(context.Context, *Ring) error) error {
	if s.Out == nil {
		s.Out = os.Stdout
	}
	table, err := region.Load(s.Regions)
	if err != nil {
		return err
	}
	store, err := objects.New(table, table.Regions[0].Name, s.S3, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx, &Ring{Dir: s.Secrets, Store: store})
}

func wait(ctx context.Context) error {
	select {
	case <-time.After(settle):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ListCommand is `meridian keys list`.
type ListCommand struct{ Settings }

// Run prints the set.
func (c *ListCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, r *Ring) error {
		ks, err := r.Set(ctx)
		if err != nil {
			return err
		}
		inUse, err := r.inUse()
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "KEY\tFOR\tREGION\tFROM\tUNTIL\t")
		for _, k := range ks.Keys {
			state := ""
			if k.Revoked {
				state = "revoked"
			} else if _, ok := inUse[k.KID]; ok {
				state = "signs"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", k.KID, k.Use, k.Region, k.NotBefore.Format(time.DateOnly), k.NotAfter.Format(time.DateOnly), state)
		}
		return t.Flush()
	})
}

// RotateCommand is `meridian keys rotate`.
type RotateCommand struct {
	Settings
	Use    token.Use `arg:"" enum:"playback,record,session" help:"What the key signs: playback (tokens), record (playback records, purges, routing) or session (of a region's edges)."`
	Region string    `help:"Region of a session key; it may be one that is to be added." placeholder:"REGION"`
}

// Run makes the key.
func (c *RotateCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, r *Ring) error {
		kid, err := r.Rotate(ctx, c.Use, c.Region)
		if err != nil {
			return err
		}
		_, perr := fmt.Fprintf(c.Out, "%s is published; who signs with it takes it with the next restart\n", kid)
		return errors.Join(perr, wait(ctx))
	})
}

// RevokeCommand is `meridian keys revoke`.
type RevokeCommand struct {
	Settings
	KID string `arg:"" name:"key" help:"Key id, as in meridian keys list."`
}

// Run ends the key.
func (c *RevokeCommand) Run(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, r *Ring) error {
		if err := r.Revoke(ctx, c.KID); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c.Out, "%s is revoked\n", c.KID)
		return errors.Join(err, wait(ctx))
	})
}
