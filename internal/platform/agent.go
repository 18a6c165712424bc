package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/tools"
)

const (
	// agentFD is the socket to `up` that a region's agent inherits.
	agentFD = 3
	// agentEvents bounds what the agent keeps for a platform that doesn't read.
	agentEvents = 256
	agentWrite  = 10 * time.Second
)

// request is what `up` asks of a region's agent; answers may come in any order.
type request struct {
	ID    uint64   `json:"id"`
	Do    string   `json:"do"`
	Setup *setup   `json:"setup,omitempty"`
	Kind  kind     `json:"kind,omitempty"`
	Names []string `json:"names,omitempty"`
}

const (
	doSetup  = "setup"
	doStart  = "start"
	doStop   = "stop"
	doStatus = "status"
)

// setup is the first request.
type setup struct {
	Region   string `json:"region"`
	StateDir string `json:"state_dir"`
	// Table is the region table as YAML.
	Table      string `json:"table"`
	Executable string `json:"executable"`
	// Env of the services, besides their own.
	Env []string `json:"env,omitempty"`
}

// answer is an event, or the answer to the request with its ID.
type answer struct {
	ID        uint64             `json:"id,omitempty"`
	Event     *supervise.Event   `json:"event,omitempty"`
	Error     string             `json:"error,omitempty"`
	Processes []supervise.Status `json:"processes,omitempty"`
}

// AgentCommand is `meridian region-agent`, which `up --isolated` starts as the
// first process of a region: it runs the region's processes, inherits their
// orphans, and ends them all with itself.
type AgentCommand struct{}

// Run serves `up` until it is gone.
func (*AgentCommand) Run(ctx context.Context) (err error) {
	f := os.NewFile(agentFD, "up")
	conn, err := net.FileConn(f)
	// Our processes must not inherit it.
	if cerr := f.Close(); err != nil {
		return fmt.Errorf("region-agent is started by `meridian up --isolated` only: %w", errors.Join(err, cerr))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return serveAgent(ctx, conn)
}

// agent is the region's side of the connection.
type agent struct {
	conn  net.Conn
	out   chan answer
	plan  *plan
	sup   *supervise.Supervisor
	group *supervise.Group
	own   region.Region
	lost  atomic.Int64 // events nobody read
}

func serveAgent(ctx context.Context, conn net.Conn) error {
	a := &agent{conn: conn, out: make(chan answer, agentEvents)}
	ctx, cancel := context.WithCancel(ctx)
	writer := make(chan error, 1)
	go func() { writer <- a.write(ctx) }()
	var requests sync.WaitGroup
	err := a.read(ctx, &requests)
	cancel()
	requests.Wait()
	err = errors.Join(err, <-writer)
	if a.sup != nil {
		err = errors.Join(err, a.sup.Close())
	}
	conn.Close()
	return err
}

func (a *agent) read(ctx context.Context, requests *sync.WaitGroup) error {
	dec := json.NewDecoder(a.conn)
	for {
		var q request
		if err := dec.Decode(&q); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil // `up` is gone or wants us gone
			}
			return fmt.Errorf("read from the platform: %w", err)
		}
		if q.Do == doSetup {
			a.reply(ctx, answer{ID: q.ID}, a.setup(q.Setup))
			continue
		}
		if a.group == nil {
			a.reply(ctx, answer{ID: q.ID}, errors.New("region-agent: not set up"))
			continue
		}
		// The platform asks one thing at a time, and for the status meanwhile.
		requests.Go(func() { a.handle(ctx, q) })
	}
}

func (a *agent) handle(ctx context.Context, q request) {
	out := answer{ID: q.ID}
	var err error
	switch q.Do {
	case doStart:
		err = startProcesses(ctx, a.group, a.plan, a.own, q.Kind)
	case doStop:
		a.group.Stop(q.Names...)
	case doStatus:
		out.Processes = a.group.Status()
	default:
		err = fmt.Errorf("region-agent: unknown request %q", q.Do)
	}
	a.reply(ctx, out, err)
}

func (a *agent) reply(ctx context.Context, out answer, err error) {
	if err != nil {
		out.Error = err.Error()
	}
	select {
	case a.out <- out:
	case <-ctx.Done():
	}
}

// event never blocks: supervision doesn't wait for the platform.
func (a *agent) event(e supervise.Event) {
	select {
	case a.out <- answer{Event: &e}:
	default:
		a.lost.Add(1)
	}
}

func (a *agent) write(ctx context.Context) error {
	enc := json.NewEncoder(a.conn)
	for {
		var out answer
		select {
		case out = <-a.out:
		case <-ctx.Done():
			return nil
		}
		err := a.conn.SetWriteDeadline(time.Now().Add(agentWrite))
		if err == nil {
			err = enc.Encode(out)
		}
		if lost := a.lost.Swap(0); lost > 0 {
			fmt.Fprintf(os.Stderr, "region-agent: %d events were lost: the platform didn't read them\n", lost)
		}
		if err != nil && ctx.Err() == nil {
			// Without the platform there is no region.
			a.conn.Close()
			return fmt.Errorf("write to the platform: %w", err)
		}
	}
}

func (a *agent) setup(s *setup) error {
	if s == nil || a.group != nil {
		return errors.New("region-agent: want one setup")
	}
	table, err := region.Parse([]byte(s.Table))
	if err != nil {
		return fmt.Errorf("region table: %w", err)
	}
	own, ok := table.Get(s.Region)
	if !ok {
		return fmt.Errorf("region-agent: no region %q", s.Region)
	}
	st := &state{dir: s.StateDir}
	if st.cred, err = tools.PostgresCredential(); err != nil {
		return err
	}
	sec, err := loadSecrets(st.path("secrets"), table)
	if err != nil {
		return err
	}
	// This PID namespace is new, so no PostgreSQL runs here; but the number in the
	// file of one that was killed may now be another process of the same user, and
	// PostgreSQL would refuse to start.
	if err := removeStalePID(st.path(own.Name, procPostgres, "data", "postmaster.pid")); err != nil {
		return err
	}
	sup, _, err := supervise.New(supervise.Options{Mark: s.StateDir, Owns: postmasters(s.StateDir), Contained: true, Report: a.event})
	if err != nil {
		return err
	}
	a.sup, a.group, a.own = sup, sup.Group(own.Name), own
	a.plan = &plan{table: table, state: st, secrets: sec, exe: s.Executable, env: s.Env}
	return nil
}

func removeStalePID(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
