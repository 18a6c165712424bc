package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/platform"
)

const (
	ownStart = 4 * time.Minute
	ownStop  = 2 * time.Minute
	// ownNetwork is beside that of a platform the user may have; networkEnv names
	// another, for two drills at a time.
	ownNetwork = "1"
	networkEnv = "MERIDIAN_UP_NETWORK"
	ownOutput  = "platform.log"
	// ownDisk is the size of a region's disk where one is to be full.
	ownDisk = "6GiB"
)

// own is a platform that lives for a drill.
type own struct {
	dir, out string
	cmd      *exec.Cmd
	ended    chan error
	log      *os.File
}

// startOwn starts an isolated platform for scenarios, with the services of the
// previous version if one is named, and waits until it is whole. What it
// prints is kept in the directory out.
func startOwn(ctx context.Context, out, previous string, list []scenario.Scenario) (_ *own, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("where this program lies: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	p := &own{out: out, ended: make(chan error, 1)}
	// Short, for unix sockets lie below it, and open, for PostgreSQL's user passes.
	if p.dir, err = os.MkdirTemp("/tmp", "meridian-drill-"); err != nil {
		return nil, err
	}
	if p.log, err = os.Create(filepath.Join(out, ownOutput)); err == nil {
		err = os.Chmod(p.dir, 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	p.cmd = exec.Command(exe, "up", "--isolated", "--network", cmp.Or(os.Getenv(networkEnv), ownNetwork), "--state", p.dir, "--client-config", "none")
	if slices.ContainsFunc(list, func(s scenario.Scenario) bool { return s.Has(scenario.Fill) }) {
		p.cmd.Args = append(p.cmd.Args, "--region-disk", ownDisk)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if previous != "" {
		p.cmd.Args = append(p.cmd.Args, "--program", previous)
	}
	// Ctrl-C is for the drill, which ends the platform when it has undone what it
	// did. The platform ends with the drill, however that ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error, 1)
	go func() {
		// The death signal follows the thread that starts it, which must stay.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
	}()
	fmt.Println("starting a platform of three isolated regions")
	if err := <-started; err != nil {
		return nil, errors.Join(err, p.log.Close(), os.RemoveAll(p.dir))
	}
	if err := p.await(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a platform: %w; its output: %s", err, p.log.Name()), p.stop(true))
	}
	return p, nil
}

// await waits until all regions are up and all processes ready.
func (p *own) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ownStart)
	defer cancel()
	for {
		st, err := platform.Remote{StateDir: p.dir}.Status(ctx)
		if err == nil && len(st.Regions) > 0 {
			if err = st.Wrong(); err == nil {
				return nil
			}
		}
		select {
		case ended := <-p.ended:
			p.ended <- ended
			return fmt.Errorf("it ended: %w", ended)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(asked):
		}
	}
}

// stop ends the platform and removes it; its logs are kept if something failed.
func (p *own) stop(failed bool) error {
	var errs []error
	select {
	case err := <-p.ended:
		errs = append(errs, fmt.Errorf("the platform ended by itself: %w", err))
	default:
		errs = append(errs, p.cmd.Process.Signal(os.Interrupt))
		select {
		case err := <-p.ended:
			if err != nil {
				errs = append(errs, fmt.Errorf("stop the platform: %w", err))
			}
		case <-time.After(ownStop):
			errs = append(errs, errors.New("the platform didn't end when asked to"), p.cmd.Process.Kill(), <-p.ended)
		}
	}
	errs = append(errs, p.log.Close())
	if failed || errors.Join(errs...) != nil {
		kept := filepath.Join(p.out, "logs")
		errs = append(errs, os.RemoveAll(kept), os.CopyFS(kept, os.DirFS(filepath.Join(p.dir, "logs"))))
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}
