package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/region"
)

// Command is `meridian jobs`: an operator's view of the encoders' work.
type Command struct {
	List    ListCommand    `cmd:"" help:"List tasks: what waits, what runs, what has ended."`
	Dead    DeadCommand    `cmd:"" help:"List tasks that failed for good through no fault of their source."`
	Replay  ReplayCommand  `cmd:"" help:"Give dead tasks another chance: their assets are encoded anew."`
	Discard DiscardCommand `cmd:"" help:"Leave dead tasks dead; the sources of their failed assets are removed."`
}

// DeadCommand is `meridian jobs dead`.
type DeadCommand struct {
	List DeadListCommand `cmd:"" default:"withargs" help:"List dead tasks, with the reason and the end of the log."`
}

// access is how the subcommands reach the catalog.
type access struct {
	region.View `embed:""`
	Postgres    catalog.Config `embed:"" prefix:"postgres-" envprefix:"MERIDIAN_POSTGRES_"`
	JSON        bool           `name:"json" help:"Print one JSON document a line."`
	// Out defaults to standard output.
	Out io.Writer `kong:"-"`
	// catalog is set by tests, with a platform of their own.
	catalog *catalog.Catalog
}

// operateTimeout bounds one subcommand.
const operateTimeout = time.Minute

// with runs f with an open catalog.
func (a *access) with(ctx context.Context, f func(ctx context.Context, c *catalog.Catalog) error) error {
	if a.Out == nil {
		a.Out = os.Stdout
	}
	ctx, cancel := context.WithTimeout(ctx, operateTimeout)
	defer cancel()
	if a.catalog != nil {
		return f(ctx, a.catalog)
	}
	t, err := a.Load()
	if err != nil {
		return err
	}
	c, err := catalog.Open(a.Postgres.DSN(t.PostgresDSNHosts(a.Region)), t.Farthest(a.Region), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

// ListCommand is `meridian jobs list`.
type ListCommand struct {
	access `embed:""`
	State  []string `help:"Only tasks in these states: queued, running, done, failed, cancelled." default:"queued,running"`
	All    bool     `help:"Tasks in any state."`
	Asset  string   `help:"Only tasks of this asset."`
	Limit  int      `help:"How many at most." default:"100"`
}

var taskStates = []string{"queued", "running", "done", "failed", "cancelled"}

// Validate names every problem.
func (l *ListCommand) Validate() error {
	errs := []error{checkLimit(l.Limit)}
	for _, s := range l.State {
		if !slices.Contains(taskStates, s) {
			errs = append(errs, fmt.Errorf("--state %q: want %s", s, strings.Join(taskStates, ", ")))
		}
	}
	return errors.Join(errs...)
}

const maxListed = 10_000

func checkLimit(n int) error {
	if n < 1 || n > maxListed {
		return fmt.Errorf("--limit %d: want 1 to %d", n, maxListed)
	}
	return nil
}

// Run lists.
func (l *ListCommand) Run(ctx context.Context) error {
	return l.with(ctx, func(ctx context.Context, c *catalog.Catalog) error {
		states := l.State
		if l.All {
			states = nil
		}
		list, err := c.Tasks(ctx, states, l.Asset, l.Limit)
		if err != nil {
			return err
		}
		if l.JSON {
			return printJSON(l.Out, list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(l.Out, "No such tasks.")
			return err
		}
		w := tabwriter.NewWriter(l.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TASK\tCLASS\tSTATE\tATTEMPT\tFRAMES\tSINCE\tWORKER")
		for _, t := range list {
			frames := "-"
			if t.FramesTotal > 0 {
				frames = fmt.Sprintf("%d/%d", t.Frames, t.FramesTotal)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", t.ID, t.Class, t.State, t.Attempt, frames, humanize.Time(since(t)), t.Worker)
		}
		return w.Flush()
	})
}

// since is when a task got into its state, as far as its row tells.
func since(t catalog.TaskInfo) time.Time {
	switch {
	case t.EndedAt != nil:
		return *t.EndedAt
	case t.State == "running" && t.StartedAt != nil:
		return *t.StartedAt
	}
	return t.CreatedAt
}

// DeadListCommand is `meridian jobs dead list`.
type DeadListCommand struct {
	access `embed:""`
	Limit  int `help:"How many at most." default:"100"`
}

// Validate names every problem.
func (l *DeadListCommand) Validate() error { return checkLimit(l.Limit) }

// Run lists.
func (l *DeadListCommand) Run(ctx context.Context) error {
	return l.with(ctx, func(ctx context.Context, c *catalog.Catalog) error {
		list, err := c.DeadTasks(ctx, l.Limit)
		if err != nil {
			return err
		}
		if l.JSON {
			return printJSON(l.Out, list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(l.Out, "No dead tasks.")
			return err
		}
		var b strings.Builder
		for _, t := range list {
			fmt.Fprintf(&b, "%s\n  %s, attempt %d by %s\n", t.ID, humanize.Time(since(t)), t.Attempt, t.Worker)
			for line := range strings.Lines(t.Failure.Detail) {
				fmt.Fprintf(&b, "  | %s\n", strings.Map(printable, strings.TrimRight(line, "\n")))
			}
		}
		b.WriteString("\nAnother chance: meridian jobs replay TASK; never again: meridian jobs discard TASK\n")
		_, err = io.WriteString(l.Out, b.String())
		return err
	})
}

// printable keeps what children wrote from driving the terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

func printJSON(w io.Writer, list []catalog.TaskInfo) error {
	e := json.NewEncoder(w)
	for _, t := range list {
		if err := e.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

// ReplayCommand is `meridian jobs replay`.
type ReplayCommand struct {
	access `embed:""`
	Tasks  []string `arg:"" name:"task" help:"Ids of dead tasks."`
}

// Run replays.
func (r *ReplayCommand) Run(ctx context.Context) error {
	return r.each(ctx, r.Tasks, func(ctx context.Context, c *catalog.Catalog, id string) (string, error) {
		run, err := c.Replay(ctx, id)
		return fmt.Sprintf("under way again, in run r%d", run), err
	})
}

// DiscardCommand is `meridian jobs discard`.
type DiscardCommand struct {
	access `embed:""`
	Tasks  []string `arg:"" name:"task" help:"Ids of dead tasks."`
}

// Run discards.
func (d *DiscardCommand) Run(ctx context.Context) error {
	return d.each(ctx, d.Tasks, func(ctx context.Context, c *catalog.Catalog, id string) (string, error) {
		return "discarded", c.Discard(ctx, id)
	})
}

// each does all tasks, whatever becomes of the others.
func (a *access) each(ctx context.Context, tasks []string, f func(ctx context.Context, c *catalog.Catalog, id string) (string, error)) error {
	return a.with(ctx, func(ctx context.Context, c *catalog.Catalog) error {
		var errs []error
		for _, id := range tasks {
			done, err := f(ctx, c, id)
			switch {
			case errors.Is(err, catalog.ErrNotFound):
				errs = append(errs, fmt.Errorf("%s: no such task; `meridian jobs dead list` shows those there are", id))
			case err != nil:
				errs = append(errs, err)
			default:
				if _, err := fmt.Fprintf(a.Out, "%s: %s\n", id, done); err != nil {
					return err
				}
			}
		}
		return errors.Join(errs...)
	})
}
