package supervise

import (
	"fmt"
	"sync"
)

// Group is processes that live and die together: a region.
type Group struct {
	s    *Supervisor
	name string

	mu        sync.Mutex
	processes []*Process
}

// Start starts a process in the group. Whether it comes up, WaitReady says; the
// error is only about what must be there before (its log file).
func (g *Group) Start(spec Spec) (*Process, error) {
	p, err := newProcess(g, spec)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", g.name, spec.Name, err)
	}
	g.mu.Lock()
	for i, old := range g.processes {
		if old.spec.Name == spec.Name {
			g.processes = append(g.processes[:i], g.processes[i+1:]...)
			break
		}
	}
	g.processes = append(g.processes, p)
	g.mu.Unlock()
	go p.run()
	return p, nil
}

func (g *Group) snapshot() []*Process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*Process(nil), g.processes...)
}

// Status lists the group's processes in the order they were started.
func (g *Group) Status() []Status {
	var out []Status
	for _, p := range g.snapshot() {
		out = append(out, p.Status())
	}
	return out
}

// Stop stops the named processes of the group at the same time and returns when
// all have ended; names it doesn't hold are ignored.
func (g *Group) Stop(names ...string) {
	var wg sync.WaitGroup
	for _, p := range g.snapshot() {
		for _, n := range names {
			if p.spec.Name == n {
				wg.Go(p.Stop)
			}
		}
	}
	wg.Wait()
}

// Kill kills every process of the group and all they have started, at once.
// When it returns nothing of the group is alive.
func (g *Group) Kill() error {
	processes := g.snapshot()
	for _, p := range processes {
		p.killNow()
	}
	// The mark finds what left its parent; PostgreSQL's children end with their postmaster.
	_, err := killAll(func(pid int) bool {
		return hasEnv(pid, g.s.mark(), groupVar+"="+g.name)
	}, killWithin)
	for _, p := range processes {
		<-p.done
	}
	if err != nil {
		return fmt.Errorf("group %s: %w", g.name, err)
	}
	return nil
}
