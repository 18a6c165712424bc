package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Proc is what /proc says of a process.
type Proc struct {
	PID, Parent int
	State       byte
	kernel      bool // a thread of the kernel
}

// Procs lists the machine's processes.
func Procs() ([]Proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := statOf(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// statOf is what /proc says of a process now; false when it has ended.
func statOf(pid int) (Proc, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Proc{}, false
	}
	return parseStat(pid, b)
}

// parseStat reads /proc/PID/stat; the command's name may hold anything, also
// parentheses, so fields count from the last one.
func parseStat(pid int, b []byte) (Proc, bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return Proc{}, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 7 || len(f[0]) != 1 {
		return Proc{}, false
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return Proc{}, false
	}
	flags, err := strconv.ParseUint(f[6], 10, 32)
	if err != nil {
		return Proc{}, false
	}
	return Proc{PID: pid, Parent: parent, State: f[0][0], kernel: flags&kernelThread != 0}, true
}

// kernelThread is PF_KTHREAD of the kernel's sched.h.
const kernelThread = 0x00200000

// Alive is false for zombies.
func (p Proc) Alive() bool { return p.State != 'Z' && p.State != 'X' }

// Stopped is true for one that a signal has stopped.
func (p Proc) Stopped() bool { return p.State == 'T' || p.State == 't' }

// Stands reports whether a process runs and a signal has stopped it.
func Stands(pid int) bool {
	p, ok := statOf(pid)
	return ok && p.Stopped()
}

// hasEnv says whether a process was started with all of the given variables.
// Other users' processes are not readable and never ours.
func hasEnv(pid int, vars ...string) bool {
	b, err := environ(pid)
	if err != nil {
		return false
	}
	b = append([]byte{0}, b...)
	for _, v := range vars {
		if !bytes.Contains(b, []byte("\x00"+v+"\x00")) {
			return false
		}
	}
	return true
}

// environ reads a process's environment. For a moment of its exec it seems to have
// none, and whoever then looks for it to kill it must not miss it.
func environ(pid int) ([]byte, error) {
	for try := 0; ; try++ {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || len(b) > 0 || try == environTries {
			return b, err
		}
		if p, ok := statOf(pid); !ok || !p.Alive() || p.kernel {
			return nil, nil
		}
		time.Sleep(environPause)
	}
}

// A process whose environment is really empty costs this much a look.
const (
	environTries = 10
	environPause = 2 * time.Millisecond
)

// withDescendants returns the living processes that match and all below them.
func withDescendants(match func(pid int) bool) ([]int, error) {
	procs, err := Procs()
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	children := map[int][]Proc{}
	for _, p := range procs {
		children[p.Parent] = append(children[p.Parent], p)
	}
	found := map[int]bool{}
	var out []int
	var add func(p Proc)
	add = func(p Proc) {
		if found[p.PID] || p.PID == self {
			return
		}
		found[p.PID] = true
		if p.Alive() {
			out = append(out, p.PID)
		}
		for _, c := range children[p.PID] {
			add(c)
		}
	}
	for _, p := range procs {
		if p.PID != self && match(p.PID) {
			add(p)
		}
	}
	return out, nil
}

// killAll kills the processes that match, and all below them, until none is
// left. It says how many it had to kill.
func killAll(match func(pid int) bool, within time.Duration) (int, error) {
	killed := map[int]bool{}
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		left, err := withDescendants(match)
		if err != nil || len(left) == 0 {
			return len(killed), err
		}
		if time.Now().After(deadline) {
			return len(killed), fmt.Errorf("processes %v don't end", left)
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
				killed[pid] = true
			}
		}
	}
}

// signalAll signals the processes that match, and all below them, and says how
// many were not standing still before.
func signalAll(match func(pid int) bool, sig syscall.Signal) (moving int, err error) {
	pids, err := withDescendants(match)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		p, ok := statOf(pid)
		switch stands := p.Stopped(); {
		case !ok || !p.Alive() || stands && sig == syscall.SIGSTOP:
			continue
		case !stands:
			moving++
		}
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return moving, fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return moving, nil
}

// standStill stops the processes that match, and all below them (SIGSTOP), and
// returns when none of them moves.
func standStill(ctx context.Context, match func(pid int) bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// Again and again: a process not yet stopped may have started another.
		moving, err := signalAll(match, syscall.SIGSTOP)
		if err != nil || moving == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes don't stop: %w", moving, ctx.Err())
		case <-tick.C:
		}
	}
}

// HangTree stops a process and all below it, in whatever session or group they
// are, and returns when all stand still. Those that left it count, with what is below
// them, if also says so; nil is none. ESRCH when there is no such process.
func HangTree(ctx context.Context, pid int, also func(pid int) bool) error {
	if p, ok := statOf(pid); !ok || !p.Alive() {
		return syscall.ESRCH
	}
	return standStill(ctx, tree(pid, also))
}

// ResumeTree lets what HangTree stopped go on.
func ResumeTree(pid int, also func(pid int) bool) error {
	_, err := signalAll(tree(pid, also), syscall.SIGCONT)
	return err
}

// KillTree kills a process and all below it. They stand still first, so that none
// starts another, or is lost from sight with its parent, meanwhile.
func KillTree(ctx context.Context, pid int, also func(pid int) bool) error {
	if err := HangTree(ctx, pid, also); err != nil {
		return err
	}
	_, err := signalAll(tree(pid, also), syscall.SIGKILL)
	return err
}

func tree(pid int, also func(pid int) bool) func(pid int) bool {
	return func(p int) bool { return p == pid || also != nil && also(p) }
}
