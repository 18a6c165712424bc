package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc (proc(5)), 100 Hz on every Linux.
const clockTick = 10 * time.Millisecond

// childrenOf is appended to a program's name for its ended children.
const childrenOf = "'s children"

// cpuByName sums the CPU time of this process's descendants by program, that of
// their ended children apart. Processes that end meanwhile count for their parent.
func cpuByName() map[string]time.Duration {
	type process struct {
		name          string
		parent        int
		cpu, children time.Duration
	}
	all := map[int]process{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended
		}
		open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
		if open < 1 || end < open {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:open])))
		fields := strings.Fields(string(b[end+1:]))
		if pid == 0 || len(fields) < 15 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		ticks := func(i int) time.Duration {
			a, _ := strconv.ParseInt(fields[i], 10, 64)
			b, _ := strconv.ParseInt(fields[i+1], 10, 64)
			return time.Duration(a+b) * clockTick
		}
		// utime, stime; cutime, cstime.
		all[pid] = process{string(b[open+1 : end]), parent, ticks(11), ticks(13)}
	}
	out := map[string]time.Duration{}
	for pid, p := range all {
		for up := p.parent; up > 1; up = all[up].parent {
			if up == os.Getpid() && pid != up {
				out[p.name] += p.cpu
				out[p.name+childrenOf] += p.children
				break
			}
		}
	}
	return out
}
