package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/meridian-video/meridian/internal/platform/supervise"
)

// StatusCommand is `meridian status`.
type StatusCommand struct {
	State string `help:"Directory of all state, as given to up." env:"MERIDIAN_STATE" placeholder:"DIR"`
	JSON  bool   `help:"Print JSON."`
}

// Run prints the regions and processes of the running platform. It fails unless
// all regions are up and all processes ready.
func (c *StatusCommand) Run(ctx context.Context) error { return c.run(ctx, os.Stdout, nil) }

func (c *StatusCommand) run(ctx context.Context, w io.Writer, only []string) error {
	dir, err := (&Command{State: c.State}).stateDir()
	if err != nil {
		return err
	}
	s, err := controlClient{dir}.status(ctx)
	if err != nil {
		return err
	}
	if len(only) > 0 {
		if s, err = s.only(only); err != nil {
			return err
		}
	}
	if c.JSON {
		err = json.NewEncoder(w).Encode(s)
	} else {
		err = s.print(w)
	}
	return errors.Join(err, s.Wrong())
}

func (s Status) only(names []string) (Status, error) {
	var kept []RegionStatus
	for _, name := range names {
		found := false
		for _, r := range s.Regions {
			if r.Name == name {
				kept, found = append(kept, r), true
			}
		}
		if !found {
			return s, refuse(UnknownRegion, "no region %q runs here", name)
		}
	}
	s.Regions = kept
	return s, nil
}

// Wrong says what of the platform isn't as it should be, nil if all is.
func (s Status) Wrong() error {
	var notUp []string
	var notWhole []error
	waiting, all := 0, 0
	for _, r := range s.Regions {
		if r.Condition != Up {
			notUp = append(notUp, r.Name+" is "+string(r.Condition))
			continue
		}
		if r.Problem != "" {
			notWhole = append(notWhole, fmt.Errorf("%s isn't whole: %s", r.Name, r.Problem))
		}
		for _, p := range r.Processes {
			all++
			if p.State != supervise.Ready {
				waiting++
			}
		}
	}
	var errs []error
	if len(notUp) > 0 {
		errs = append(errs, errors.New(strings.Join(notUp, ", ")))
	}
	if waiting > 0 {
		errs = append(errs, fmt.Errorf("%d of %d processes are not ready", waiting, all))
	}
	return errors.Join(append(errs, notWhole...)...)
}

func (s Status) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REGION\tPROCESS\tSTATE\tSINCE\tRESTARTS\tPID\tPROBLEM")
	age := func(at time.Time) time.Duration { return time.Since(at).Round(time.Second) }
	for _, r := range s.Regions {
		condition := string(r.Condition)
		if r.Silence != "" {
			condition += " (" + r.Silence + ")"
		}
		fmt.Fprintf(t, "%s\t\t%s\t%s\t\t\t%s\n", r.Name, condition, age(r.Since), r.Problem)
		for _, p := range r.Processes {
			pid := "-"
			if p.PID > 0 {
				pid = strconv.Itoa(p.PID)
			}
			fmt.Fprintf(t, "\t%s\t%s\t%s\t%d\t%s\t%s\n", p.Name, p.State, age(p.Since), p.Restarts, pid, p.Problem)
		}
	}
	return t.Flush()
}

// RegionCommand is `meridian region`: what can happen to a region of the
// platform running here.
type RegionCommand struct {
	Kill    regionKill    `cmd:"" help:"Kill everything of a region at once, as if its power had failed."`
	Hang    regionHang    `cmd:"" help:"Stop everything of a region where it stands: connections are accepted and never answered."`
	Resume  regionResume  `cmd:"" help:"Let a hung region go on."`
	Silence regionSilence `cmd:"" help:"Lose all packets to and from a region (platforms started with --isolated)."`
	Slow    regionSlow    `cmd:"" help:"Delay or lose packets to and from a region, or leave it little room (platforms started with --isolated)."`
	Heal    regionHeal    `cmd:"" help:"Let a silent or slow region be heard again."`
	Fill    regionFill    `cmd:"" help:"Leave no room on a region's disk (platforms started with --region-disk)."`
	Free    regionFree    `cmd:"" help:"Give a full disk its room back."`
	Stop    regionStop    `cmd:"" help:"Stop a region in order, as for the maintenance of its machine."`
	Start   regionStart   `cmd:"" help:"Bring a killed or stopped region back."`
	Status  regionStatus  `cmd:"" help:"Show the condition of regions and their processes."`
}

// regionTarget says which regions of which platform.
type regionTarget struct {
	State   string   `help:"Directory of all state, as given to up." env:"MERIDIAN_STATE" placeholder:"DIR"`
	Regions []string `arg:"" help:"Regions: eu, us, ap." placeholder:"REGION"`
}

type regionKill struct {
	regionTarget `embed:""`
}
type regionHang struct {
	regionTarget `embed:""`
}
type regionResume struct {
	regionTarget `embed:""`
}
type regionHeal struct {
	regionTarget `embed:""`
}
type regionStop struct {
	regionTarget `embed:""`
}
type regionSilence struct {
	regionTarget `embed:""`
	Direction    string `help:"Lose what is sent to the region (in), by it (out), or both." enum:"in,out,both" default:"both"`
}
type regionSlow struct {
	regionTarget `embed:""`
	Delay        time.Duration `help:"Comes on top of the delay of every packet, one way; a quarter more at most, at random." placeholder:"300ms"`
	Loss         float64       `help:"Share of packets lost, 0 to 1." placeholder:"SHARE"`
	Rate         int64         `help:"Most bits per second to, and from, each other place." placeholder:"BITS"`
}
type regionFill struct {
	regionTarget `embed:""`
}
type regionFree struct {
	regionTarget `embed:""`
}
type regionStart struct {
	regionTarget `embed:""`
	WipeObjects  bool          `help:"Come back with an empty object store, as after the loss of its disks."`
	Program      string        `help:"Come back with another version of this program (platforms started with --isolated)." type:"existingfile" placeholder:"FILE"`
	Clock        time.Duration `help:"Come back with clocks that are ahead (programs built with make build-drill)." placeholder:"90s"`
}
type regionStatus struct {
	State   string   `help:"Directory of all state, as given to up." env:"MERIDIAN_STATE" placeholder:"DIR"`
	JSON    bool     `help:"Print JSON."`
	Regions []string `arg:"" optional:"" help:"Regions: eu, us, ap; all if none is named." placeholder:"REGION"`
}

func (c *regionKill) Run(ctx context.Context) error { return c.operate(ctx, opKill, nil, "killed") }
func (c *regionHang) Run(ctx context.Context) error { return c.operate(ctx, opHang, nil, "hangs") }
func (c *regionResume) Run(ctx context.Context) error {
	return c.operate(ctx, opResume, nil, "goes on")
}
func (c *regionHeal) Run(ctx context.Context) error {
	return c.operate(ctx, opHeal, nil, "is heard again")
}
func (c *regionStop) Run(ctx context.Context) error { return c.operate(ctx, opStop, nil, "stopped") }
func (c *regionSilence) Run(ctx context.Context) error {
	return c.operate(ctx, opSilence, url.Values{"direction": {c.Direction}}, "silent")
}
func (c *regionSlow) Run(ctx context.Context) error {
	return c.operate(ctx, opSlow, url.Values{"delay": {c.Delay.String()}, "loss": {strconv.FormatFloat(c.Loss, 'g', -1, 64)},
		"rate": {strconv.FormatInt(c.Rate, 10)}}, "slow")
}
func (c *regionFill) Run(ctx context.Context) error { return c.operate(ctx, opFill, nil, "full") }
func (c *regionFree) Run(ctx context.Context) error {
	return c.operate(ctx, opFree, nil, "has room again")
}
func (c *regionStart) Run(ctx context.Context) error {
	return c.operate(ctx, opStart, url.Values{"wipe-objects": {strconv.FormatBool(c.WipeObjects)},
		"program": {c.Program}, "clock": {c.Clock.String()}}, "up")
}
func (c *regionStatus) Run(ctx context.Context) error {
	return (&StatusCommand{State: c.State, JSON: c.JSON}).run(ctx, os.Stdout, c.Regions)
}

// operate does the operation to all named regions at the same time: of three
// that were killed, none comes up alone.
func (t *regionTarget) operate(ctx context.Context, op operation, q url.Values, done string) error {
	dir, err := (&Command{State: t.State}).stateDir()
	if err != nil {
		return err
	}
	var mu sync.Mutex // of the output
	var wg sync.WaitGroup
	errs := make([]error, len(t.Regions))
	for i, name := range t.Regions {
		begin := time.Now()
		say := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("%-3s %s\n", name, text)
		}
		wg.Go(func() {
			errs[i] = controlClient{dir}.operate(ctx, op, name, q, say)
			if errs[i] == nil {
				say(done + " after " + seconds(time.Since(begin)))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
