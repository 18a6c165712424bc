package confine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Layer is one of the ways a child is confined.
type Layer string

// The layers.
const (
	// User: children are another user.
	User Layer = "user"
	// Network: children reach nothing but the worker's server.
	Network Layer = "network"
	// Files: children read the system's files only, and write into their own directory.
	Files Layer = "files"
	// Calls: children make no dangerous system calls.
	Calls Layer = "calls"
)

// Layers are all there are.
func Layers() []Layer { return []Layer{User, Network, Files, Calls} }

// Lack is a layer that children don't have, and why.
type Lack struct {
	Layer Layer
	Why   error
}

// Options of a Confinement.
type Options struct {
	// User is whom children run as, a name or a number, where the worker may choose.
	User string
	// Programs are what children may execute wherever it is; the system's they may anyway.
	Programs []string
	// Try is a command that does nothing, and must succeed.
	Try []string
}

// Confinement starts children. Safe for concurrent use.
type Confinement struct {
	listener net.Listener
	// namespace is the children's network, nil for the worker's own.
	namespace *os.File
	as        *syscall.Credential
	rules     *ruleset
	filter    []unix.SockFilter
	lacks     []Lack
}

// New prepares a confinement and the port its children reach, and tries it: what can't be
// had is left out. Close releases it; the listener is the caller's.
func New(ctx context.Context, opt Options) (*Confinement, error) {
	c := &Confinement{}
	if err := c.prepare(ctx, opt); err != nil {
		return nil, errors.Join(fmt.Errorf("confinement: %w", err), c.close())
	}
	return c, nil
}

func (c *Confinement) prepare(ctx context.Context, opt Options) (err error) {
	if c.as, err = credential(opt.User); err != nil {
		c.lack(User, err)
	}
	var alone error
	if c.listener, c.namespace, alone = listenAlone(ctx); alone != nil {
		if c.listener, err = listen(ctx); err != nil {
			return err
		}
	}
	if c.filter, err = filter(runtime.GOARCH); err != nil {
		c.lack(Calls, err)
	}
	if err := c.limitFiles(opt.Programs); err != nil {
		c.lack(Files, err)
	}
	if err := c.try(ctx, opt.Try); err != nil {
		return err
	}
	if alone != nil && (c.filter == nil || c.rules == nil || !c.rules.ports()) {
		c.lack(Network, fmt.Errorf("%w, and it takes both seccomp and Landlock of version 4 to do without", alone))
	}
	return nil
}

func (c *Confinement) lack(l Layer, why error) { c.lacks = append(c.lacks, Lack{l, why}) }

// limitFiles makes the rules that hold for all children.
func (c *Confinement) limitFiles(programs []string) error {
	read := slices.Clone(systemPaths)
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
		read = append(read, filepath.Dir(path))
	}
	port := c.listener.Addr().(*net.TCPAddr).Port
	rules, err := newRuleset(read, uint16(port))
	c.rules = rules
	return err
}

// refusal is a layer that couldn't be put on.
type refusal struct {
	layer Layer
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// try starts a child, without the layers that are refused. A program that doesn't run may
// lie where only the worker's own user can go.
func (c *Confinement) try(ctx context.Context, command []string) error {
	for {
		err := c.run(ctx, command)
		if err == nil {
			return nil
		}
		layer := User
		var r *refusal
		if errors.As(err, &r) {
			layer = r.layer
		}
		switch {
		case layer == User && c.as != nil:
			c.as = nil
		case layer == Calls && c.filter != nil:
			c.filter = nil
		case layer == Files && c.rules != nil:
			if cerr := c.rules.f.Close(); cerr != nil {
				return errors.Join(err, cerr)
			}
			c.rules = nil
		default:
			return err
		}
		c.lack(layer, err)
	}
}

func (c *Confinement) run(ctx context.Context, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	release, err := c.Start(cmd, "")
	if err == nil {
		err = cmd.Wait()
		release()
	}
	if err != nil {
		return fmt.Errorf("%s doesn't run: %w", command[0], err)
	}
	return nil
}

// credential is the user children run as.
func credential(name string) (*syscall.Credential, error) {
	if missing := lacking(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL, unix.CAP_SYS_NICE, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE); missing != nil {
		return nil, missing
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", name, err)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("user %q: %w", name, err)
	}
	if uid == 0 {
		return nil, fmt.Errorf("user %q is root", name)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Listener is the port that children reach.
func (c *Confinement) Listener() net.Listener { return c.listener }

// Lacks are the layers children don't have.
func (c *Confinement) Lacks() []Lack { return c.lacks }

// Close releases what New made but the listener. No child runs any more.
func (c *Confinement) Close() error {
	c.listener = nil
	return c.close()
}

func (c *Confinement) close() error {
	var errs []error
	if c.listener != nil {
		errs = append(errs, c.listener.Close())
	}
	files := []*os.File{c.namespace}
	if c.rules != nil {
		files = append(files, c.rules.f)
	}
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Start starts a command that has not been, in dir, which becomes its user's and is where
// it may write; "" for nowhere. Names of files in dir must be relative. After the command has
// been waited for, release must be called.
func (c *Confinement) Start(cmd *exec.Cmd, dir string) (release func(), err error) {
	rules := c.rules
	if dir != "" && rules != nil {
		if rules, err = rules.writing(dir); err != nil {
			return nil, err
		}
		defer rules.f.Close()
	}
	// A user that isn't the worker's can't go to a directory that lies where only the worker
	// can; but it can be there from the beginning.
	var at *os.File
	cmd.Dir = cmp.Or(dir, "/")
	if c.as != nil {
		if at, err = os.Open(cmd.Dir); err != nil {
			return nil, err
		}
		defer at.Close()
		if dir != "" {
			if err := at.Chown(int(c.as.Uid), int(c.as.Gid)); err != nil {
				return nil, err
			}
		}
		cmd.Dir = ""
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Credential = c.as
	}
	return held(onOwnThread, func() error {
		if err := c.enter(at, rules); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// Free starts commands that aren't confined.
type Free struct{}

// Start starts a command in dir, "" for where the worker is. After the command has been
// waited for, release must be called.
func (Free) Start(cmd *exec.Cmd, dir string) (release func(), err error) {
	cmd.Dir = dir
	return held(onThread, cmd.Start)
}

// held calls start on a thread of on's and keeps that until release is called: a child
// gets its Pdeathsig when the thread ends that started it.
func held(on func(f func()) (over <-chan struct{}), start func() error) (release func(), err error) {
	started, ended := make(chan error), make(chan struct{})
	over := on(func() {
		err := start()
		started <- err
		if err == nil {
			<-ended
		}
	})
	if err := <-started; err != nil {
		<-over
		return nil, err
	}
	return func() { close(ended); <-over }, nil
}

// onThread calls f on a thread that does nothing else meanwhile.
func onThread(f func()) (over <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		f()
	}()
	return done
}

// onOwnThread calls f on a thread that ends with it, as it will be fit for nothing else. The
// process's first thread isn't taken: it would not end, and is what others see as the process.
//
// A thread that ends may have been anybody's before. Whoever else starts processes with
// Pdeathsig must hold the thread it does that on.
func onOwnThread(f func()) (over <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == unix.Getpid() {
			other := onOwnThread(f)
			<-other
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	return done
}

// enter confines the calling thread, for ever.
func (c *Confinement) enter(at *os.File, rules *ruleset) error {
	if c.namespace != nil {
		if err := unix.Setns(int(c.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
	}
	if at != nil {
		// The thread's own working directory, no longer the process's.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return &refusal{User, os.NewSyscallError("unshare", err)}
		}
		if err := unix.Fchdir(int(at.Fd())); err != nil {
			return os.NewSyscallError("fchdir", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if c.as == nil {
		if err := dropCapabilities(); err != nil {
			return err
		}
	}
	if rules != nil {
		if err := rules.restrict(); err != nil {
			return &refusal{Files, err}
		}
	}
	if c.filter != nil {
		if err := install(c.filter); err != nil {
			return &refusal{Calls, err}
		}
	}
	return nil
}
