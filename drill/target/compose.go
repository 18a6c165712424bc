package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
)

const (
	// What containers of docker-compose.multiregion.yml are labelled with.
	labelRegion    = "video.meridian.region"
	labelComponent = "video.meridian.component"
	// ownDocker is the distribution's client, which fits its engine.
	ownDocker = "/usr/bin/docker"
	// restart is the policy of the compose file's services.
	restart = "unless-stopped"
	// engineTime is how long the engine may take to tell of all containers: it runs
	// their health checks meanwhile.
	engineTime = 20 * time.Second
	// maxOutput of a command.
	maxOutput = 8 << 20
)

// stores start before what needs them.
var stores = []string{"etcd", "postgres", "nats", "minio"}

// Compose is the platform of docker-compose.multiregion.yml on this machine's
// engine. What it does to regions it does with docker: stop, and taking their
// containers off the networks between regions; or it kills and stops their processes,
// which the engine can't do to many at once, and what the engine has paused can't
// end by itself. Viewers have their addresses on this machine, for which it must be
// root.
type Compose struct {
	// file is the compose file; docker the client.
	file, docker string

	mu       sync.Mutex
	prepared map[string][]container  // what a fault will hit
	cut      map[string][]bridgePort // of silent regions

	slowing slowing
}

// OpenCompose finds the containers of a compose file.
func OpenCompose(ctx context.Context, file string) (*Compose, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root may give viewers addresses near regions: run the drill as root")
	}
	c := &Compose{file: file, docker: "docker", prepared: map[string][]container{}, cut: map[string][]bridgePort{}}
	if _, err := os.Stat(ownDocker); err == nil {
		c.docker = ownDocker
	}
	list, err := c.containers(ctx, nil)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("no container of %s runs: start it with `docker compose -f %[1]s up --wait`", file)
	}
	return c, err
}

// run runs docker and returns what it wrote to its output.
func (c *Compose) run(ctx context.Context, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, c.docker, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("the engine didn't answer: %w", cause)
		}
		return out.Bytes(), fmt.Errorf("docker %s: %w: %.500s", args[0], err, strings.TrimSpace(errs.String()))
	}
	if out.Len() > maxOutput {
		return nil, fmt.Errorf("docker %s: wrote %d bytes", args[0], out.Len())
	}
	return out.Bytes(), nil
}

// container as docker inspects it.
type container struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string
		Paused bool
		Pid    int
		Health *struct{ Status string }
	}
	Config          struct{ Labels map[string]string }
	Mounts          []struct{ Type, Source, Destination string }
	NetworkSettings struct{ Networks map[string]attachment }
}

// attachment of a container to a network.
type attachment struct{ IPAddress netip.Addr }

func (x container) region() string    { return x.Config.Labels[labelRegion] }
func (x container) component() string { return x.Config.Labels[labelComponent] }

// well is nil if it runs and says that it is ready.
func (x container) well() error {
	name := strings.TrimPrefix(x.Name, "/")
	switch {
	case x.State.Paused:
		return fmt.Errorf("%s is paused", name)
	case x.State.Pid > 0 && supervise.Stands(x.State.Pid):
		return fmt.Errorf("%s hangs", name)
	case x.State.Status != "running":
		return fmt.Errorf("%s is %s", name, x.State.Status)
	case x.State.Health != nil && x.State.Health.Status != "healthy":
		return fmt.Errorf("%s is %s", name, x.State.Health.Status)
	}
	return nil
}

// containers of regions, also those that ended, for which keep is true.
func (c *Compose) containers(ctx context.Context, keep func(container) bool) ([]container, error) {
	ids, err := c.run(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+labelRegion)
	if err != nil || len(bytes.TrimSpace(ids)) == 0 {
		return nil, err
	}
	b, err := c.run(ctx, append([]string{"inspect"}, strings.Fields(string(ids))...)...)
	if err != nil {
		return nil, err
	}
	var list []container
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("docker inspect: %w", err)
	}
	return slices.DeleteFunc(list, func(x container) bool { return keep != nil && !keep(x) }), nil
}

// hit are the containers that a fault is done to.
func (c *Compose) hit(ctx context.Context, f Fault) ([]container, error) {
	list, err := c.containers(ctx, func(x container) bool { return x.region() == f.Region && (f.Process == "" || x.is(f.Process)) })
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s: no such container", f)
	}
	return list, err
}

// is reports whether it is the process of a scenario; edges are named edge-eu-1.
func (x container) is(process string) bool {
	if n, ok := strings.CutPrefix(process, "edge-"); ok {
		return x.component() == "edge-cache" && strings.Contains(x.Name, "-edge-"+x.region()+"-"+n+"-")
	}
	return x.component() == process
}

func names(list []container) []string {
	var out []string
	for _, x := range list {
		out = append(out, x.ID)
	}
	return out
}

// Describe reads the files beside the compose file.
func (c *Compose) Describe(ctx context.Context) (*Description, error) {
	dir := filepath.Join(filepath.Dir(c.file), "deploy", "compose")
	table, err := region.Load(filepath.Join(dir, "regions.yaml"))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, "secrets", table.Regions[0].Name, "api", "api.key"))
	if err != nil {
		return nil, fmt.Errorf("the platform's API key: %w", err)
	}
	d := &Description{Table: table, Name: filepath.Base(c.file), APIKey: strings.TrimSpace(string(key)), Close: func() error { return nil }}
	for i, r := range table.Regions {
		place := Place{Near: r.Name, From: resolver.From, Sources: sources(r, true, i)}
		lives, err := live(netip.PrefixFrom(place.Sources[0], 24), r.Edges[0].Addresses[0])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("addresses of viewers near %s: %w", r.Name, err), d.Close())
		}
		before := d.Close
		d.Close = func() error { return errors.Join(lives(), before()) }
		d.Places = append(d.Places, place)
	}
	d.Reconcile = c.reconcile
	d.Leader = c.leader
	return d, nil
}

// live makes all addresses of a prefix this machine's own, on the network that an
// address is reached by, until the returned function is called.
func live(prefix netip.Prefix, by netip.Addr) (func() error, error) {
	routes, err := netlink.RouteGet(by.AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, fmt.Errorf("how %s is reached: %w", by, err)
	}
	ip := &net.IPNet{IP: prefix.Masked().Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
	route := &netlink.Route{LinkIndex: routes[0].LinkIndex, Dst: ip, Table: syscall.RT_TABLE_LOCAL, Type: syscall.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
	if err := netlink.RouteReplace(route); err != nil {
		return nil, err
	}
	return func() error { return netlink.RouteDel(route) }, nil
}

// inside runs a command in the first container of a component that is well.
func (c *Compose) inside(ctx context.Context, component string, args ...string) ([]byte, error) {
	list, err := c.containers(ctx, func(x container) bool { return x.component() == component && x.well() == nil })
	if err != nil {
		return nil, err
	}
	last := fmt.Errorf("no %s is well", component)
	for _, x := range list {
		var out []byte
		if out, last = c.run(ctx, append([]string{"exec", x.ID}, args...)...); len(out) > 0 {
			return out, last
		}
	}
	return nil, last
}

// reconcile is `meridian reconcile` where an api runs.
func (c *Compose) reconcile(ctx context.Context, read bool) (repair.Report, error) {
	args := []string{"meridian", "reconcile", "--json"}
	if read {
		args = append(args, "--read")
	}
	out, err := c.inside(ctx, "api", args...)
	report, ok := parseReport(out)
	if !ok {
		return report, fmt.Errorf("compare stores and catalog: %w", err)
	}
	return report, nil
}

// leader asks Patroni.
func (c *Compose) leader(ctx context.Context) (string, error) {
	for {
		out, err := c.inside(ctx, "postgres", "patronictl", "-c", "/run/meridian/patroni.yml", "list", "--format", "json")
		var members []struct{ Member, Role, State string }
		if err == nil {
			err = json.Unmarshal(out, &members)
		}
		for _, m := range members {
			if m.Role == "Leader" && m.State == "running" {
				return m.Member, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no region's PostgreSQL leads: %w", errors.Join(ctx.Err(), err))
		case <-time.After(time.Second):
		}
	}
}

// Status asks the engine.
func (c *Compose) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	list, err := c.containers(ctx, nil)
	if err != nil {
		return Status{}, err
	}
	var out Status
	var wrong []error
	well := map[string]bool{}
	for _, x := range list {
		err := x.well()
		wrong = append(wrong, err)
		well[x.region()] = well[x.region()] || err == nil
	}
	c.mu.Lock()
	for r := range c.cut {
		wrong = append(wrong, fmt.Errorf("%s is silent", r))
	}
	c.mu.Unlock()
	for r, some := range well {
		if !some {
			out.Down = append(out.Down, r)
		}
	}
	slices.Sort(out.Down)
	out.Whole = errors.Join(wrong...)
	return out, nil
}

// Apply makes a fault.
func (c *Compose) Apply(ctx context.Context, f Fault) error {
	c.mu.Lock()
	list := c.prepared[f.String()]
	delete(c.prepared, f.String())
	c.mu.Unlock()
	switch {
	case f.Clock != 0 || f.Upgrade || f.Fault == scenario.Slow && f.Process == "" || f.Fault == scenario.Fill || f.Fault == scenario.Silence && f.Direction != scenario.Both && f.Direction != "":
		return fmt.Errorf("%s: containers can be killed, stopped, hung, and silenced both ways, and their processes slowed; drill a platform of `meridian up --isolated`", f)
	case f.Fault == scenario.Silence:
		return c.silence(f.Region, list)
	}
	hang := func(ctx context.Context) error {
		return onTrees(f, list, func(pid int, also func(int) bool) error { return supervise.HangTree(ctx, pid, also) })
	}
	switch f.Fault {
	case scenario.Kill:
		// All in one moment, as a loss of power does; docker kill takes seconds for each. And
		// what that ends, the engine doesn't restart, where it shall.
		return onTrees(f, list, func(pid int, also func(int) bool) error { return supervise.KillTree(ctx, pid, also) })
	case scenario.Stop:
		// One client for all: each takes a good part of a second to begin on a busy machine.
		_, err := c.run(ctx, append([]string{"stop"}, names(list)...)...)
		return err
	case scenario.Slow:
		c.slowing.begin(f, hang, func() error { return onTrees(f, list, supervise.ResumeTree) })
		return nil
	default:
		return hang(ctx)
	}
}

// Prepare asks the engine which containers a fault hits, and keeps it from starting again
// those that will be killed: a busy engine takes seconds for either.
func (c *Compose) Prepare(ctx context.Context, f Fault) error {
	list, err := c.hit(ctx, f)
	if err == nil && f.Fault == scenario.Kill && f.Process == "" {
		_, err = c.run(ctx, append([]string{"update", "--restart", "no"}, names(list)...)...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prepared[f.String()] = list
	return err
}

// onTrees does something to the processes of all containers that run, at once.
func onTrees(f Fault, list []container, do func(pid int, also func(pid int) bool) error) error {
	var pids []int
	for _, x := range list {
		if x.State.Pid > 0 {
			pids = append(pids, x.State.Pid)
		}
	}
	if len(pids) == 0 {
		return named(f, 0, syscall.ESRCH)
	}
	return named(f, pids[0], do(pids[0], func(pid int) bool { return slices.Contains(pids, pid) }))
}

// silence has the bridges drop all that comes from and goes to a region's containers,
// but on the region's own network.
func (c *Compose) silence(name string, list []container) error {
	var ports []bridgePort
	for _, x := range list {
		for network, a := range x.NetworkSettings.Networks {
			if x.State.Pid == 0 || strings.HasSuffix(network, "_"+name) {
				continue
			}
			p, err := findPort(x, a.IPAddress)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", x.Name, network, err)
			}
			ports = append(ports, p)
		}
	}
	c.mu.Lock()
	c.cut[name] = ports
	c.mu.Unlock()
	return together(ports, func(p bridgePort) error { return p.set(portDisabled) })
}

// hear undoes silence. A container that was restarted meanwhile had new ports, and so
// was heard: that is an error.
func (c *Compose) hear(name string, list []container) error {
	c.mu.Lock()
	ports := c.cut[name]
	delete(c.cut, name)
	c.mu.Unlock()
	return together(ports, func(p bridgePort) error {
		if !slices.ContainsFunc(list, func(x container) bool { return x.ID == p.container.ID && x.State.Pid == p.container.State.Pid }) {
			return fmt.Errorf("%s ended while its region was silent, and was heard when it ran again", p.container.Name)
		}
		return p.set(portForwarding)
	})
}

// together does f to all at the same time.
func together[T any](list []T, f func(T) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, x := range list {
		wg.Go(func() { errs[i] = f(x) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Heal undoes a fault. What is undone already is no error.
func (c *Compose) Heal(ctx context.Context, f Fault) error {
	list, err := c.hit(ctx, f)
	if err != nil {
		return err
	}
	switch f.Fault {
	case scenario.Silence:
		return c.hear(f.Region, list)
	case scenario.Hang:
		return onTrees(f, list, supervise.ResumeTree)
	case scenario.Slow:
		c.slowing.end(f)
	case scenario.Kill, scenario.Stop:
		if f.Process == "" {
			return c.start(ctx, f, list)
		}
	}
	return nil // the engine restarts it
}

// start starts a region's containers, stores first.
func (c *Compose) start(ctx context.Context, f Fault, list []container) error {
	var first, then []string
	for _, x := range list {
		if f.Wipe && x.component() == "minio" {
			if err := wipe(x); err != nil {
				return fmt.Errorf("%s: %w", f, err)
			}
		}
		if slices.Contains(stores, x.component()) {
			first = append(first, x.ID)
		} else {
			then = append(then, x.ID)
		}
	}
	for _, ids := range [][]string{first, then} {
		if len(ids) == 0 {
			continue
		}
		if _, err := c.run(ctx, append([]string{"update", "--restart", restart}, ids...)...); err != nil {
			return err
		}
		err := together(ids, func(id string) error { _, err := c.run(ctx, "start", id); return err })
		if err != nil {
			return err
		}
	}
	return nil
}

// wipe empties the volumes of a container that doesn't run.
func wipe(x container) error {
	for _, m := range x.Mounts {
		if m.Type != "volume" {
			continue
		}
		entries, err := os.ReadDir(m.Source)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(m.Source, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
