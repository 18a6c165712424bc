package platform

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

// bare is a platform of one region that has yet to start its processes, behind its
// control socket.
func bare(t *testing.T, place func(*platform, region.Region) place) *platform {
	t.Helper()
	dir := stateDir(t)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	table, err := (&Command{Regions: []string{"eu"}, Network: freeNetwork(t)}).table()
	require.NoError(t, err)
	p := &platform{opt: Options{Table: table, StateDir: dir, StoresOnly: true}, out: &progress{w: io.Discard},
		plan: &plan{table: table, state: &state{dir: dir}, secrets: &secrets{}}}
	life, cancel := context.WithCancel(t.Context())
	p.life = life
	p.sites = []*site{newSite(table.Regions[0], place(p, table.Regions[0]))}
	ctl, err := serveControl(p.plan.state.path(controlSocket), p)
	require.NoError(t, err)
	t.Cleanup(func() {
		cancel()
		p.work.Wait()
		ctl.close()
	})
	return p
}

// supervisor is one in this process, which is a subreaper only as long: zombies of what
// other tests kill would look alive to PostgreSQL, which knows its own by number.
func supervisor(t *testing.T, mark string) *supervise.Supervisor {
	t.Helper()
	sup, _, err := supervise.New(supervise.Options{Mark: mark})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, sup.Close())
		require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0))
	})
	return sup
}

// onLoopback is a real place without processes.
func onLoopback(t *testing.T) func(*platform, region.Region) place {
	sup := supervisor(t, filepath.Join(t.TempDir(), "state"))
	return func(p *platform, r region.Region) place { return &local{p.plan, sup.Group(r.Name), r, true} }
}

func TestOperationsOnARegionWaitForEachOther(t *testing.T) {
	p := bare(t, onLoopback(t))
	dir, eu := p.opt.StateDir, p.sites[0]
	require.ErrorIs(t, operate(t, dir, opKill, "eu"), &Error{Code: NotUp}, "the platform is starting")
	p.begun()
	eu.set(Up, "")

	release, err := eu.acquire(t.Context(), eu.busy)
	require.NoError(t, err)
	other := time.AfterFunc(500*time.Millisecond, release)
	defer other.Stop()
	require.NoError(t, operate(t, dir, opKill, "eu"))
	require.ErrorIs(t, operate(t, dir, opKill, "eu"), &Error{Code: AlreadyKilled})

	// Who goes away while it waits wants nothing any more.
	eu.set(Up, "")
	release, err = eu.acquire(t.Context(), eu.busy)
	require.NoError(t, err)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.killRegion(ctx, "eu"), &Error{Code: Busy})
	require.Equal(t, Up, conditionOf(t, dir, "eu").Condition)

	// A platform that stops holds all regions; nobody needs to wait for that.
	p.stopping.Store(true)
	require.ErrorIs(t, operate(t, dir, opKill, "eu"), &Error{Code: NotUp})
}

func TestRegionsOfStrangeNames(t *testing.T) {
	p := bare(t, onLoopback(t))
	p.begun()
	for _, name := range []string{"", ".", "..", "eu/kill", "../status", "e u", "eu?", "EU", "nowhere", "%2e"} {
		require.ErrorIs(t, operate(t, p.opt.StateDir, opKill, name), &Error{Code: UnknownRegion}, "%q", name)
	}
}

// What a kill couldn't do, another does.
func TestKillOfWhatIsLeft(t *testing.T) {
	p := bare(t, onLoopback(t))
	dir, eu := p.opt.StateDir, p.sites[0]
	p.begun()
	eu.set(Up, "")
	left, err := net.Listen("tcp", at(eu.region, region.PortS3))
	require.NoError(t, err)
	require.ErrorContains(t, operate(t, dir, opKill, "eu"), "is in use by process")
	require.Contains(t, conditionOf(t, dir, "eu").Problem, "is in use by process")
	require.ErrorContains(t, operate(t, dir, opStart, "eu", "wipe-objects", "false"), "what was left of it")
	require.NoError(t, left.Close())
	require.NoError(t, operate(t, dir, opKill, "eu"))
	require.Empty(t, conditionOf(t, dir, "eu").Problem)

	eu.set(Up, "")
	left, err = net.Listen("tcp", at(eu.region, region.PortS3))
	require.NoError(t, err)
	require.ErrorContains(t, operate(t, dir, opStop, "eu"), "is in use by process")
	status := conditionOf(t, dir, "eu")
	require.Equal(t, Stopped, status.Condition)
	require.Contains(t, status.Problem, "is in use by process")
	require.NoError(t, left.Close())
	require.NoError(t, operate(t, dir, opKill, "eu"))
}

// stubborn is a place that opens, or fails to, when it is told.
type stubborn struct {
	opened chan struct{}
	result chan error

	mu        sync.Mutex
	processes []supervise.Status
}

func newStubborn(*platform, region.Region) place {
	return &stubborn{opened: make(chan struct{}), result: make(chan error)}
}

func (s *stubborn) open(ctx context.Context) error {
	select {
	case s.opened <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-s.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stubborn) start(context.Context, kind) error     { return nil }
func (s *stubborn) stop(context.Context, ...string) error { return nil }
func (s *stubborn) kill(context.Context) error            { return nil }
func (s *stubborn) hang(context.Context) error            { return nil }
func (s *stubborn) resume() error                         { return nil }
func (s *stubborn) change(startup) error                  { return nil }
func (s *stubborn) status(context.Context) []supervise.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.processes)
}

// have says which processes are ready.
func (s *stubborn) have(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = nil
	for _, name := range names {
		s.processes = append(s.processes, supervise.Status{Name: name, State: supervise.Ready})
	}
}

func TestOnlyWhatEndsARegionEndsItsStart(t *testing.T) {
	p := bare(t, newStubborn)
	dir, eu := p.opt.StateDir, p.sites[0]
	p.begun()
	eu.set(Killed, "")
	for _, end := range []struct {
		op   operation
		left Condition
	}{{opKill, Killed}, {opStop, Stopped}} {
		started := make(chan error, 1)
		go func() { started <- operate(t, dir, opStart, "eu", "wipe-objects", "false") }()
		<-eu.place.(*stubborn).opened
		require.ErrorIs(t, operate(t, dir, opStart, "eu", "wipe-objects", "false"), &Error{Code: NotUp})
		require.ErrorIs(t, operate(t, dir, opHang, "eu"), &Error{Code: NotUp})
		require.ErrorIs(t, operate(t, dir, opResume, "eu"), &Error{Code: NotUp})
		require.ErrorIs(t, operate(t, dir, opSilence, "eu", "direction", "both"), &Error{Code: NotIsolated})
		require.ErrorIs(t, operate(t, dir, opSlow, "eu", "loss", "0.1"), &Error{Code: NotIsolated})
		require.ErrorIs(t, operate(t, dir, opHeal, "eu"), &Error{Code: NotIsolated})
		require.ErrorIs(t, operate(t, dir, opFill, "eu"), &Error{Code: NoDisk})
		require.ErrorIs(t, operate(t, dir, opFree, "eu"), &Error{Code: NotFull})
		require.Equal(t, Starting, conditionOf(t, dir, "eu").Condition)
		require.Empty(t, started)
		require.NoError(t, operate(t, dir, end.op, "eu"))
		require.ErrorIs(t, <-started, &Error{Code: Interrupted})
		status := conditionOf(t, dir, "eu")
		require.Equal(t, end.left, status.Condition)
		require.Empty(t, status.Problem)
	}
}

// A region that dies by itself is brought up by one at a time, also if it dies while
// the platform starts or while it is brought up.
func TestLostRegionsAreRevivedOnce(t *testing.T) {
	p := bare(t, newStubborn)
	dir, eu := p.opt.StateDir, p.sites[0]
	place := eu.place.(*stubborn)
	p.regionLost(eu, errors.New("no power"))
	eu.set(Up, "")
	p.begun()
	<-place.opened
	for range 3 {
		p.regionLost(eu, errors.New("no power again"))
	}
	begin := time.Now()
	place.result <- errors.New("no disk")
	<-place.opened
	require.GreaterOrEqual(t, time.Since(begin), lostBackoff, "several bring it up")
	place.result <- errors.New("no disk")
	require.Eventually(t, func() bool { return eu.view().problem == "no disk" }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, Lost, conditionOf(t, dir, "eu").Condition)
	require.NoError(t, operate(t, dir, opKill, "eu"))
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-place.opened:
		t.Fatal("a region killed on purpose is brought up")
	}
	require.Equal(t, Killed, conditionOf(t, dir, "eu").Condition)
}

// A region that didn't become whole isn't well, until it is.
func TestRegionThatIsNotWhole(t *testing.T) {
	p := bare(t, newStubborn)
	eu, place := p.sites[0], p.sites[0].place.(*stubborn)
	p.begun()
	eu.set(Up, "PostgreSQL doesn't follow its leader")
	place.have(procEtcd, procNATS, procMinIO)
	status := (&StatusCommand{State: p.opt.StateDir}).run
	require.ErrorContains(t, status(t.Context(), io.Discard, nil), "eu isn't whole: PostgreSQL doesn't follow its leader")
	require.ErrorContains(t, operate(t, p.opt.StateDir, opStart, "eu", "wipe-objects", "false"), "not whole")
	place.have(procEtcd, procNATS, procMinIO, procPostgres)
	require.NoError(t, status(t.Context(), io.Discard, nil))
	require.Empty(t, eu.view().problem)
}

// Where the first process of a region has died, the others have with it.
func TestStopWithoutAnAgent(t *testing.T) {
	ours, theirs := net.Pipe()
	require.NoError(t, errors.Join(ours.Close(), theirs.Close()))
	a := &remoteAgent{conn: ours, gone: make(chan struct{}), waiting: map[uint64]chan answer{}}
	i := &isolated{agent: a}
	require.ErrorIs(t, i.stop(t.Context(), procNATS), errAgentGone, "it may still run")
	close(a.gone)
	require.NoError(t, i.stop(t.Context(), procNATS))
}

// A platform that has started doesn't end because the command line's configuration
// can't be written.
func TestClientConfigThatCannotBeWritten(t *testing.T) {
	p := bare(t, newStubborn)
	var said testenv.Buffer
	p.out.w = &said
	p.plan.secrets = &secrets{apiKey: "mk_x"}
	p.opt.ClientConfig = filepath.Join(p.opt.StateDir, controlSocket, "client.yaml")
	p.opt.StoresOnly = false
	require.NoError(t, p.announce())
	require.Contains(t, said.String(), "The command line doesn't know of it")
	require.Contains(t, said.String(), ". "+p.plan.state.path("client.env"))
}
