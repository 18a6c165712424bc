package platform

import (
	"context"
	"time"
)

// Pauses between attempts to bring up a region that died by itself.
const (
	lostBackoff    = time.Second
	maxLostBackoff = 30 * time.Second
)

// regionLost has a region brought up again whose agent ended by itself. One that is
// lost while the platform starts waits for the end of that, which may fail by it.
func (p *platform) regionLost(s *site, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = cause
	s.losses++
	if p.started.Load() && !p.stopping.Load() && !s.reviving {
		s.reviving = true
		p.work.Go(func() { p.revive(s) })
	}
}

// begun has regions be changed from now on.
func (p *platform) begun() {
	p.started.Store(true)
	for _, s := range p.sites {
		if _, cause := s.loss(); cause != nil {
			p.regionLost(s, cause)
		}
	}
}

func (p *platform) revive(s *site) {
	for backoff := lostBackoff; p.reviveOnce(s); backoff = min(2*backoff, maxLostBackoff) {
		select {
		case <-p.life.Done():
			return
		case <-time.After(backoff):
		}
	}
}

func (p *platform) reviveOnce(s *site) (again bool) {
	release, err := s.acquire(p.life, s.busy)
	if err != nil {
		return false // the platform ends
	}
	defer release()
	losses, cause := s.loss()
	if p.stopping.Load() || s.view().down() {
		return !s.revived(losses)
	}
	s.set(Lost, cause.Error())
	p.out.say("%-3s ended by itself (%v); it starts again", s.region.Name, cause)
	ctx, cancel := context.WithTimeout(p.life, killTimeout)
	err = s.place.kill(ctx)
	cancel()
	if err == nil {
		ctx, done := p.interruptible(s)
		err = p.bringUp(ctx, s, func(string) {})
		done()
	}
	if err == nil {
		return !s.revived(losses)
	}
	s.set(Lost, err.Error())
	p.out.say("%-3s doesn't start: %v", s.region.Name, err)
	return p.life.Err() == nil
}
