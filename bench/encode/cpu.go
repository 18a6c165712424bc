package main

import (
	"os"
	"time"

	"github.com/meridian-video/meridian/bench/proc"
)

// childrenOf is appended to a program's name for its ended children.
const childrenOf = "'s children"

// cpuByName sums the CPU time of this process's descendants by program, that of
// their ended children apart. Processes that end meanwhile count for their parent.
func cpuByName() (map[string]time.Duration, error) {
	all, err := proc.Tree(os.Getpid())
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for _, p := range all[1:] {
		out[p.Name] += p.CPU
		out[p.Name+childrenOf] += p.Ended
	}
	return out, nil
}
