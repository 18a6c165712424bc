package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of processor times in /proc (proc(5)), the same on every Linux.
const Tick = time.Second / 100

// Process is one of a tree.
type Process struct {
	PID, Parent int
	Name        string
	// CPU is its user and system time, Ended that of the children it has waited for.
	CPU, Ended time.Duration
}

// Tree returns the process and all below it; it is an error when there is none.
func Tree(pid int) ([]Process, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var out []Process
	children := map[int][]Process{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		p, err := parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if p.PID == pid {
			out = append(out, p)
		}
		children[p.Parent] = append(children[p.Parent], p)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no process %d", pid)
	}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i].PID]...)
	}
	return out, nil
}

// parse reads /proc/PID/stat.
func parse(b []byte) (Process, error) {
	bad := fmt.Errorf("%q isn't the state of a process", b)
	// The command's name, in parentheses, may hold anything.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Process{}, bad
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 15 {
		return Process{}, bad
	}
	p := Process{Name: string(b[open+1 : end])}
	var errs [6]error
	p.PID, errs[0] = strconv.Atoi(strings.TrimSpace(string(b[:open])))
	p.Parent, errs[1] = strconv.Atoi(f[1])
	for i, d := range []*time.Duration{&p.CPU, &p.CPU, &p.Ended, &p.Ended} { // utime, stime, cutime, cstime
		var n int64
		n, errs[2+i] = strconv.ParseInt(f[11+i], 10, 64)
		*d += time.Duration(n) * Tick
	}
	if err := errors.Join(errs[:]...); err != nil {
		return Process{}, bad
	}
	return p, nil
}

// CPU is the processor time of the process and all below it, ended ones included.
func CPU(pid int) (time.Duration, error) {
	all, err := Tree(pid)
	sum := time.Duration(0)
	for _, p := range all {
		sum += p.CPU + p.Ended
	}
	return sum, err
}

// Memory is what the process and all below it have in memory, in bytes; pages they
// share with others count in proportion (Pss of smaps_rollup, proc(5)).
func Memory(pid int) (int64, error) {
	all, err := Tree(pid)
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for _, p := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			if p.PID != pid {
				continue // it has ended
			}
			return 0, err
		}
		n, err := pss(b)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", p.PID, err)
		}
		sum += n
	}
	return sum, nil
}

func pss(b []byte) (int64, error) {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("smaps_rollup has no Pss")
}
