package wan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often a process that must stop is looked at.
const pollInterval = 2 * time.Millisecond

// Processes returns the processes in the namespace, by their number outside, and
// those that commands in it have started in network namespaces of their own.
func (n *Namespace) Processes() ([]int, error) {
	pids, _, err := n.members()
	return pids, err
}

// members returns the processes, and the PID namespaces of commands by which those
// that left the network are known.
func (n *Namespace) members() (pids []int, spaces map[string]bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil, fmt.Errorf("list processes: %w", err)
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, nil, fmt.Errorf("list processes: %w", err)
	}
	spaces = map[string]bool{}
	elsewhere := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		in, err := n.inhabits(pid)
		var space string
		if err == nil {
			space, err = namespaceOf(pid, "pid")
		}
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("list processes: %w", err)
		case in:
			pids = append(pids, pid)
			if space != "" && space != ours {
				spaces[space] = true
			}
		case space != "" && space != ours:
			elsewhere[pid] = space
		}
	}
	for pid, space := range elsewhere {
		if spaces[space] {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, spaces, nil
}

// inhabits is false for a process that is gone or dead and not yet reaped.
func (n *Namespace) inhabits(pid int) (bool, error) {
	link, err := namespaceOf(pid, "net")
	return link == n.link, err
}

// namespaceOf names a process's namespace of a kind, empty for one that is gone or
// dead. One we may not look at has more capabilities than we, so it isn't below us.
func namespaceOf(pid int, kind string) (string, error) {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	return link, err
}

// belongs reports whether a process is in the namespace or in one of the PID
// namespaces.
func (n *Namespace) belongs(pid int, spaces map[string]bool) (bool, error) {
	in, err := n.inhabits(pid)
	if err != nil || in {
		return in, err
	}
	space, err := namespaceOf(pid, "pid")
	return spaces[space], err
}

// Kill kills every process in the namespace and returns when none is alive.
func (n *Namespace) Kill(ctx context.Context) error {
	err := n.each(ctx, unix.SIGKILL, func(ctx context.Context, pids, fds []int) error {
		for i, fd := range fds {
			if err := exited(ctx, fd); err != nil {
				return fmt.Errorf("process %d: %w", pids[i], err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("kill processes of network namespace: %w", err)
	}
	return nil
}

// Hang stops every process in the namespace (SIGSTOP) and returns when all
// stand still: connections are accepted and never answered.
func (n *Namespace) Hang(ctx context.Context) error {
	err := n.each(ctx, unix.SIGSTOP, func(ctx context.Context, pids, _ []int) error {
		for _, pid := range pids {
			if err := stopped(ctx, pid); err != nil {
				return fmt.Errorf("process %d: %w", pid, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hang processes of network namespace: %w", err)
	}
	return nil
}

// Resume lets processes stopped by Hang go on.
func (n *Namespace) Resume() error {
	_, fds, err := n.signal(unix.SIGCONT, nil)
	return errors.Join(err, closeAll(fds))
}

// each signals the processes in the namespace and waits for the effect, until
// it finds none it has not signalled: they may fork meanwhile.
func (n *Namespace) each(ctx context.Context, sig unix.Signal, wait func(ctx context.Context, pids, fds []int) error) error {
	seen := map[int]bool{}
	for {
		pids, fds, err := n.signal(sig, seen)
		if err == nil && len(pids) == 0 {
			return closeAll(fds)
		}
		if err == nil {
			err = wait(ctx, pids, fds)
		}
		if err := errors.Join(err, closeAll(fds)); err != nil {
			return err
		}
		for _, pid := range pids {
			// A killed process is not seen again; its number may be.
			seen[pid] = sig != unix.SIGKILL
		}
	}
}

// signal sends sig to the processes not in skip. Their descriptors pin them, so
// that no signal goes to another process with the number of one that ended.
func (n *Namespace) signal(sig unix.Signal, skip map[int]bool) (pids, fds []int, err error) {
	if !n.owned {
		return nil, nil, ErrNotOwned
	}
	all, spaces, err := n.members()
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range all {
		if skip[pid] {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return pids, fds, fmt.Errorf("open process %d: %w", pid, err)
		}
		in, err := n.belongs(pid, spaces)
		if err == nil && in {
			err = unix.PidfdSendSignal(fd, sig, nil, 0)
		}
		if errors.Is(err, unix.ESRCH) || (err == nil && !in) {
			err = unix.Close(fd)
			if err != nil {
				return pids, fds, err
			}
			continue
		}
		pids, fds = append(pids, pid), append(fds, fd)
		if err != nil {
			return pids, fds, fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return pids, fds, nil
}

func closeAll(fds []int) error {
	var errs []error
	for _, fd := range fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// exited waits until the process of a pidfd has ended.
func exited(ctx context.Context, fd int) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		k, err := unix.Poll(p, 100)
		if k > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("still alive: %w", err)
		}
	}
}

// stopped waits until a process stands still or is gone.
func stopped(ctx context.Context, pid int) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return err
		}
		// The state is the field after the name, which may itself hold brackets.
		after := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(after) > 0 && bytes.Contains([]byte("TtZX"), after[0]) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not stopped: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
