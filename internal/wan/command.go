package wan

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// Cmd is an exec.Cmd that starts inside a namespace; use its own Start, Run,
// Output and CombinedOutput.
type Cmd struct {
	*exec.Cmd
	namespace *Namespace
}

// initScript gives the new PID namespace its own /proc before the command takes
// the shell's place: Patroni, for one, looks there for the processes it knows by
// number.
const initScript = `/bin/mount -t proc proc /proc && exec "$0" "$@"`

// Command prepares a command that runs in the namespace as the first process of
// a new PID namespace, and is killed when ctx ends, the namespace closes or this
// process dies; every process below it goes with it, before Wait returns.
//
// As a first process it inherits orphans and must reap them, and signals it has
// no handler for don't reach it, except SIGKILL and SIGSTOP from outside. It
// starts as root; SysProcAttr.Credential can't be used. A change of its user by
// the command itself takes it out of the reach of this process's death.
func (n *Namespace) Command(ctx context.Context, name string, arg ...string) *Cmd {
	path, err := exec.LookPath(name)
	c := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", initScript, path}, arg...)...)
	if err != nil {
		c.Err = err
	}
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		// Unshared rather than cloned: Go then makes the mounts private, else the
		// new /proc would appear outside too.
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	return &Cmd{Cmd: c, namespace: n}
}

// Start starts any command inside the namespace, without a PID namespace. Close
// kills it too.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.call(cmd.Start) }

// Start is exec.Cmd.Start inside the namespace.
func (c *Cmd) Start() error { return c.namespace.Start(c.Cmd) }

// Run is exec.Cmd.Run inside the namespace.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd.Output inside the namespace, without the copy of stderr.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("wan: Stdout already set")
	}
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput is exec.Cmd.CombinedOutput inside the namespace.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("wan: Stdout or Stderr already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}
