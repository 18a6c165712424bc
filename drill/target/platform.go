package target

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/platform"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	statusTime = 5 * time.Second
	// askLeader bounds the question to one region, portPatroni answers it.
	askLeader   = time.Second
	portPatroni = "8008"
	// sourcesEach is how many addresses viewers near a region have.
	sourcesEach = 250
)

// Platform is a platform of `meridian up` on this machine.
type Platform struct {
	remote   platform.Remote
	stateDir string // absolute

	slowing slowing
}

// OpenPlatform finds the platform that runs on a state directory; empty is the
// default one.
func OpenPlatform(ctx context.Context, stateDir string) (*Platform, error) {
	p := &Platform{remote: platform.Remote{StateDir: stateDir}}
	if _, err := p.remote.Status(ctx); err != nil {
		return nil, err
	}
	dir, err := p.remote.Path()
	if err == nil {
		p.stateDir, err = filepath.Abs(dir)
	}
	return p, err
}

// Describe reads the platform's files.
func (p *Platform) Describe(ctx context.Context) (*Description, error) {
	file := func(name string) (string, error) { return p.remote.Path(name) }
	path, err := file("regions.yaml")
	if err != nil {
		return nil, err
	}
	table, err := region.Load(path)
	if err != nil {
		return nil, err
	}
	if len(table.Regions) < 3 {
		return nil, fmt.Errorf("the platform has %d region: a drill wants three, so that one can be lost: start it with `meridian up --isolated`", len(table.Regions))
	}
	st, err := p.remote.Status(ctx)
	if err != nil {
		return nil, err
	}
	d := &Description{Table: table, Name: "meridian up"}
	if d.APIKey, err = p.apiKey(); err != nil {
		return nil, err
	}
	var open []*wan.Namespace
	d.Close = func() error {
		var errs []error
		for _, n := range open {
			errs = append(errs, n.Close())
		}
		return errors.Join(errs...)
	}
	for i, r := range table.Regions {
		place := Place{Near: r.Name, From: resolver.From}
		if st.Isolated {
			d.Name = "meridian up --isolated"
			ns, err := wan.OpenNamespace(st.Namespaces[wan.ViewersNode(r.Name)])
			if err != nil {
				return nil, errors.Join(fmt.Errorf("where viewers near %s are: %w", r.Name, err), d.Close())
			}
			open = append(open, ns)
			place.From = func(source netip.Addr) resolver.Dial { return ns.DialFrom(source) }
		}
		place.Sources = sources(r, st.Isolated, i)
		d.Places = append(d.Places, place)
	}
	d.Reconcile = p.reconcile
	d.Leader = func(ctx context.Context) (string, error) { return leader(ctx, table) }
	return d, nil
}

// sources are the addresses the development geo database places near a region:
// 198.18.(10+n).0/24 in an isolated network and beside containers, 127.(10+n).0.0/16 on loopback.
func sources(r region.Region, isolated bool, index int) []netip.Addr {
	a := r.Edges[0].Addresses[0].As4()
	base := [4]byte{127, byte(11 + index), 0, 0}
	if isolated {
		base = [4]byte{a[0], a[1], a[2] + 10, 0}
	}
	out := make([]netip.Addr, 0, sourcesEach)
	for n := range sourcesEach {
		base[3] = byte(n + 2)
		out = append(out, netip.AddrFrom4(base))
	}
	return out
}

// apiKey is in the file that up writes for shells.
func (p *Platform) apiKey() (string, error) {
	path, err := p.remote.Path("client.env")
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the platform's API key: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if key, ok := strings.CutPrefix(strings.TrimSpace(line), "export MERIDIAN_API_KEY="); ok {
			return key, nil
		}
	}
	return "", fmt.Errorf("%s names no API key: start the platform again", path)
}

// reconcile is `meridian reconcile` with the file that up writes for operators.
func (p *Platform) reconcile(ctx context.Context, read bool) (repair.Report, error) {
	path, err := p.remote.Path("operator.yaml")
	if err != nil {
		return repair.Report{}, err
	}
	var c struct {
		repair.Command `embed:""`
		// What the file has for other commands.
		Secrets, RecordKey, RootPublicKey string `hidden:""`
	}
	k, err := kong.New(&c, kong.Name("reconcile"), kong.Configuration(service.YAMLFile, path), kong.Exit(func(int) {}))
	if err == nil {
		_, err = k.Parse(nil)
	}
	if err != nil {
		return repair.Report{}, fmt.Errorf("%s: %w", path, err)
	}
	var out bytes.Buffer
	c.Read, c.JSON, c.Out = read, true, &out
	err = c.Run(ctx)
	report, ok := parseReport(out.Bytes())
	if !ok {
		return report, fmt.Errorf("compare stores and catalog: %w", err)
	}
	return report, nil
}

// Status asks the platform.
func (p *Platform) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	st, err := p.remote.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	out := Status{Whole: st.Wrong()}
	for _, r := range st.Regions {
		if r.Condition != platform.Up {
			out.Down = append(out.Down, r.Name)
		}
	}
	return out, nil
}

// Prepare has nothing to do.
func (p *Platform) Prepare(context.Context, Fault) error { return nil }

// Apply makes a fault.
func (p *Platform) Apply(ctx context.Context, f Fault) error {
	if f.Process != "" {
		return p.applyToProcess(ctx, f)
	}
	args := url.Values{}
	switch f.Fault {
	case scenario.Silence:
		args.Set("direction", string(cmp.Or(f.Direction, scenario.Both)))
	case scenario.Slow:
		args.Set("delay", f.Delay.Std().String())
		args.Set("loss", strconv.FormatFloat(f.Loss, 'g', -1, 64))
		args.Set("rate", strconv.FormatInt(f.Rate, 10))
	}
	return p.remote.Operate(ctx, string(f.Fault), f.Region, args, nil)
}

func (p *Platform) applyToProcess(ctx context.Context, f Fault) error {
	pid, err := p.process(ctx, f)
	if err != nil {
		return err
	}
	switch f.Fault {
	case scenario.Slow:
		apart := p.apart(f)
		p.slowing.begin(f, func(ctx context.Context) error { return supervise.HangTree(ctx, pid, apart) },
			func() error { return supervise.ResumeTree(pid, apart) })
		return nil
	case scenario.Hang:
		err = supervise.HangTree(ctx, pid, p.apart(f))
	default:
		err = supervise.KillTree(ctx, pid, p.apart(f))
	}
	return named(f, pid, err)
}

// apart finds what belongs to a process and isn't below it.
func (p *Platform) apart(f Fault) func(pid int) bool {
	return platform.Apart(p.stateDir, f.Region, f.Process)
}

func named(f Fault, pid int, err error) error {
	if err != nil {
		return fmt.Errorf("%s: process %d: %w", f, pid, err)
	}
	return nil
}

// Heal undoes it. What is undone already is no error.
func (p *Platform) Heal(ctx context.Context, f Fault) error {
	if f.Process != "" {
		return p.healProcess(ctx, f)
	}
	undo := map[scenario.Fault]string{scenario.Kill: "start", scenario.Stop: "start", scenario.Hang: "resume", scenario.Silence: "heal",
		scenario.Slow: "heal", scenario.Fill: "free"}
	args := url.Values{"wipe-objects": {strconv.FormatBool(f.Wipe)}, "clock": {f.Clock.Std().String()}}
	if f.Upgrade {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("where this program lies: %w", err)
		}
		args.Set("program", exe)
	}
	err := p.remote.Operate(ctx, undo[f.Fault], f.Region, args, nil)
	var refused *platform.Error
	if errors.As(err, &refused) && slices.Contains([]platform.Code{platform.NotDown, platform.NotHung, platform.NotSilent, platform.NotFull}, refused.Code) {
		return nil
	}
	return err
}

func (p *Platform) healProcess(ctx context.Context, f Fault) error {
	switch f.Fault {
	case scenario.Hang:
		pid, err := p.process(ctx, f)
		switch {
		case errors.Is(err, errNotRunning):
			return nil // it noticed that it stood still, and ended
		case err != nil:
			return err
		}
		return named(f, pid, supervise.ResumeTree(pid, p.apart(f)))
	case scenario.Slow:
		p.slowing.end(f)
	}
	return nil // what was killed, the platform restarts
}

var errNotRunning = errors.New("doesn't run")

// process finds the number of a region's process.
func (p *Platform) process(ctx context.Context, f Fault) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	st, err := p.remote.Status(ctx)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, r := range st.Regions {
		if r.Name != f.Region {
			continue
		}
		for _, x := range r.Processes {
			names = append(names, x.Name)
			if x.Name != f.Process && x.Name != f.Region+"-"+strings.TrimPrefix(f.Process, "edge-") {
				continue
			}
			if x.PID == 0 || x.State == supervise.Stopped {
				return 0, fmt.Errorf("%s: %s of %s %w", f, x.Name, f.Region, errNotRunning)
			}
			return x.PID, nil
		}
	}
	return 0, fmt.Errorf("%s: %s has no process %q: want one of %s", f, f.Region, f.Process, strings.Join(names, ", "))
}

// leader asks every region's Patroni whether it leads, until one does.
func leader(ctx context.Context, t *region.Table) (string, error) {
	client := &http.Client{Timeout: askLeader, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, r := range t.Regions {
			host, _, err := net.SplitHostPort(r.Postgres)
			if err != nil {
				continue // a serving-only region has none
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, portPatroni)+"/primary", nil)
			if err != nil {
				return "", err
			}
			res, err := client.Do(req)
			if err != nil {
				continue // a region that is lost; the next one may know
			}
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return r.Name, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no region's PostgreSQL leads: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
