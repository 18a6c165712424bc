package platform

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
)

// progress prints what happens, one line each.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	phase phase
	// followers hear of the events of one region.
	followers map[string]func(string)
}

type phase int

const (
	phaseStarting phase = iota
	phaseRunning
	phaseStopping
)

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(format, args...)
}

func (p *progress) line(format string, args ...any) {
	// Nowhere is left to report that the terminal is gone.
	_, _ = fmt.Fprintf(p.w, "meridian: "+format+"\n", args...)
}

func (p *progress) print(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.w, text) // as above
}

func (p *progress) started()  { p.set(phaseRunning) }
func (p *progress) stopping() { p.set(phaseStopping); p.say("stopping") }

func (p *progress) stopped(ran time.Duration) {
	p.say("stopped after %s; nothing is left running", ran.Round(time.Second))
}

func (p *progress) set(to phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = to
}

func (p *progress) event(e supervise.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := ""
	switch {
	case p.phase == phaseStopping:
	case e.State == supervise.Ready && e.Again:
		text = "ready again after " + seconds(e.Took)
	case e.State == supervise.Ready:
		text = "ready after " + seconds(e.Took)
	case e.State == supervise.Waiting:
		text = fmt.Sprintf("ended (%s) after %s; it starts again in %s; log: %s", e.Problem, seconds(e.Took), e.Backoff, e.Log)
	}
	if text == "" {
		return
	}
	p.line("%-3s %-10s %s", e.Group, e.Name, text)
	if f := p.followers[e.Group]; f != nil {
		f(fmt.Sprintf("%-10s %s", e.Name, text))
	}
}

// follow tells f, which must not block for long, of the events of a region. One at a time follows it.
func (p *progress) follow(region string, f func(string)) (unfollow func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.followers == nil {
		p.followers = map[string]func(string){}
	}
	p.followers[region] = f
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.followers, region)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// announce prints where everything is and writes it down for the command line.
func (p *platform) announce() error {
	table, key := p.opt.Table, p.plan.secrets.apiKey
	first := table.Regions[0]
	var apis []string
	for _, r := range table.Regions {
		apis = append(apis, r.API)
	}
	// The command line tries them in turn.
	api := strings.Join(apis, ",")
	env := fmt.Sprintf("export MERIDIAN_API=%s\nexport MERIDIAN_API_KEY=%s\n", api, key)
	if err := durable.Write(p.plan.state.path("client.env"), []byte(env), 0o600); err != nil {
		return diskFull(err, p.opt.StateDir)
	}
	if err := durable.Write(p.plan.state.path("operator.yaml"), []byte(p.plan.operatorConfig()), 0o600); err != nil {
		return diskFull(err, p.opt.StateDir)
	}
	var b strings.Builder
	took := seconds(time.Since(p.begin))
	if p.opt.StoresOnly {
		fmt.Fprintf(&b, "\nThe stores of %s are ready after %s.\n\n", strings.Join(table.Names(), ", "), took)
	} else {
		fmt.Fprintf(&b, "\nMeridian is ready in %s after %s.\n\n", strings.Join(table.Names(), ", "), took)
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range table.Regions {
		fmt.Fprintf(t, "  %s\t%s\t\n", r.Name, r.Place)
		if !p.opt.StoresOnly {
			fmt.Fprintf(t, "\tPages\t%s/watch/ASSET\n", r.Router.URL)
			fmt.Fprintf(t, "\tAPI\t%s\n", r.API)
			fmt.Fprintf(t, "\tDNS\t%s (%s)\n", r.Router.DNS, table.Zone)
			for _, e := range r.Edges {
				fmt.Fprintf(t, "\tEdge %s\t%s\n", e.Name, e.URL)
			}
		}
		fmt.Fprintf(t, "\tStores\tS3 %s, PostgreSQL %s, %s\n", r.S3, r.Postgres, r.NATS)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n  First API key  %s\n  Logs           %s\n", key, p.plan.state.path("logs"))
	if p.opt.TLS && !p.opt.StoresOnly {
		fmt.Fprintf(&b, "  CA for TLS     %s (ports %d, %d, %d)\n", filepath.Join(p.plan.secrets.dir, caFile), region.PortAPITLS, region.PortRouterTLS, region.PortEdgeTLS)
	}
	hint := ""
	if p.opt.ClientConfig != "" {
		written, err := writeClientConfig(p.opt.ClientConfig, api, key)
		why := ""
		switch {
		case err != nil:
			why = fmt.Sprintf("The command line doesn't know of it (%v)", err)
		case !written:
			why = p.opt.ClientConfig + " is your own and was left alone"
		}
		if why != "" {
			hint = fmt.Sprintf("\n  %s; for this platform first:\n    . %s\n", why, p.plan.state.path("client.env"))
		}
	}
	if !p.opt.StoresOnly {
		fmt.Fprintf(&b, "%s\nTry, in another terminal:\n  %s upload FILE\n  open %s/watch/ASSET\n", hint, os.Args[0], first.Router.URL)
	}
	b.WriteString("\nCtrl-C stops it.\n\n")
	p.out.print(b.String())
	return nil
}
