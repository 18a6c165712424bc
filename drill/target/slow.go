package target

import (
	"context"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/sleep"
)

// slowPeriod is what a slow process stands still for a share of.
const slowPeriod = time.Second

// slowing keeps processes slow. The zero value has none.
type slowing struct {
	mu     sync.Mutex
	slowed map[Fault]func() // what lets a slow process go
}

// begin has a process stand still for f.Share of every second, until end.
func (s *slowing) begin(f Fault, hang func(context.Context) error, resume func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s.mu.Lock()
	if s.slowed == nil {
		s.slowed = map[Fault]func(){}
	}
	s.slowed[f] = func() { cancel(); <-ended }
	s.mu.Unlock()
	still := time.Duration(f.Share * float64(slowPeriod))
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			// One that has ended isn't slow any more, and nobody else has its number yet.
			if hang(ctx) != nil && ctx.Err() == nil {
				return
			}
			_ = sleep.For(ctx, still)
			if resume() != nil {
				return
			}
			_ = sleep.For(ctx, slowPeriod-still)
		}
	}()
}

// end lets what f made slow go on. What isn't slow is no error.
func (s *slowing) end(f Fault) {
	s.mu.Lock()
	let := s.slowed[f]
	delete(s.slowed, f)
	s.mu.Unlock()
	if let != nil {
		let()
	}
}
