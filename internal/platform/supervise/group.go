package supervise

import (
	"context"
	"fmt"
	"sync"
	"syscall"
)

// Group is processes that live and die together: a region.
type Group struct {
	s    *Supervisor
	name string

	mu        sync.Mutex
	processes []*Process
	// resumed is there while the group hangs, and closed when it goes on.
	resumed chan struct{}
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
	_, err := killAll(g.owns, killWithin)
	for _, p := range processes {
		<-p.done
	}
	g.setHeld(false)
	if err != nil {
		return fmt.Errorf("group %s: %w", g.name, err)
	}
	return nil
}

// owns finds by mark also what has left its parent.
func (g *Group) owns(pid int) bool {
	return hasEnv(pid, Mark(g.s.opt.Mark, g.name)...) || g.s.opt.Owns != nil && g.s.opt.Owns(g.name, pid)
}

// Hang stops every process of the group (SIGSTOP) and returns when all stand
// still: connections are accepted and never answered. Nothing of the group is
// restarted before Resume.
func (g *Group) Hang(ctx context.Context) error {
	g.setHeld(true)
	if err := standStill(ctx, g.owns); err != nil {
		return fmt.Errorf("group %s: %w", g.name, err)
	}
	return nil
}

// Resume lets processes stopped by Hang go on.
func (g *Group) Resume() error {
	_, err := signalAll(g.owns, syscall.SIGCONT)
	g.setHeld(false)
	if err != nil {
		return fmt.Errorf("group %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) setHeld(held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case held && g.resumed == nil:
		g.resumed = make(chan struct{})
	case !held && g.resumed != nil:
		close(g.resumed)
		g.resumed = nil
	}
}

func (g *Group) held() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.resumed != nil
}

// awaitResume returns at once unless the group hangs.
func (g *Group) awaitResume(stop <-chan struct{}) {
	g.mu.Lock()
	resumed := g.resumed
	g.mu.Unlock()
	if resumed == nil {
		return
	}
	select {
	case <-resumed:
	case <-stop:
	}
}
