package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/sleep"
)

// priorityGroup is the one group of consumers that offer work to every region:
// workers of the work's own region pull with priority 0, others with 1.
const priorityGroup = "workers"

// source is one consumer a worker pulls from.
type source struct {
	class    catalog.Class
	rank     int
	region   string
	pinned   bool
	priority uint8
}

func (s source) name() string {
	return fmt.Sprintf("%s-%s-%s", s.class, s.region, scope(s.pinned))
}

func (s source) subject() string { return jobSubject(s.class, s.region, s.pinned) }

func scope(pinned bool) string {
	if pinned {
		return "pinned"
	}
	return "any"
}

func jobSubject(class catalog.Class, region string, pinned bool) string {
	return fmt.Sprintf("jobs.%s.%s.%s", class, region, scope(pinned))
}

// sources are what a worker may pull: its own region's pinned work, and
// everybody's unpinned work, its own region's first.
func (w *Worker) sources() []source {
	var out []source
	for rank, class := range catalog.Classes {
		out = append(out, source{class: class, rank: rank, region: w.Region, pinned: true})
		for _, r := range w.Regions {
			s := source{class: class, rank: rank, region: r, priority: 1}
			if r == w.Region {
				s.priority = 0
			}
			out = append(out, s)
		}
	}
	return out
}

func (s source) config() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{Durable: s.name(), FilterSubject: s.subject(), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: catalog.Lease, MaxDeliver: -1, MaxAckPending: 10_000}
	if !s.pinned {
		cfg.PriorityPolicy, cfg.PriorityGroups = jetstream.PriorityPolicyPrioritized, []string{priorityGroup}
	}
	return cfg
}

// feed pulls from one source whenever a slot its class may use is free. A
// message that finds the slot taken meanwhile goes back at once, to whoever waits.
func (w *Worker) feed(ctx, taskCtx context.Context, s source) error {
	var consumer jetstream.Consumer
	log := w.Log.With("consumer", s.name())
	pause := retryMin
	for {
		if !w.slots.await(ctx, s.class) {
			return nil
		}
		if s.rank > 0 && sleep.For(ctx, time.Duration(s.rank)*headStart) != nil {
			return nil
		}
		err := func() error {
			if consumer == nil {
				c, err := w.Conn.js.CreateOrUpdateConsumer(ctx, streamJobs, s.config())
				if err != nil {
					return err
				}
				consumer = c
			}
			msg, err := pull(ctx, consumer, s)
			if err != nil || msg == nil {
				return err
			}
			if !w.slots.take(s.class) {
				w.settle(log, "nak", msg.Nak())
				return nil
			}
			w.tasks.Go(func() {
				slot := &slot{of: w.slots, class: s.class}
				defer slot.release()
				w.handle(taskCtx, msg, slot)
			})
			return nil
		}()
		if err == nil {
			pause = retryMin
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, nats.ErrNoResponders) {
			consumer = nil
		}
		if pause > retryMin {
			log.Warn("pull: trying again", "err", err, "in", pause) // once is a server that restarts
		}
		if sleep.For(ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, retryMax)
	}
}

// pull waits a while for one message; nil when none came.
func pull(ctx context.Context, c jetstream.Consumer, s source) (jetstream.Msg, error) {
	pctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	opts := []jetstream.FetchOpt{jetstream.FetchContext(pctx), jetstream.FetchHeartbeat(pullBeat)}
	if !s.pinned {
		opts = append(opts, jetstream.FetchPriorityGroup(priorityGroup), jetstream.FetchPrioritized(s.priority))
	}
	batch, err := c.Fetch(1, opts...)
	if err != nil {
		return nil, err
	}
	msg := <-batch.Messages()
	err = batch.Error()
	if msg != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, jetstream.ErrNoHeartbeat) {
		err = nil
	}
	return msg, err
}

// slots counts tasks under way. Of four or more, two are kept for class First
// (a new video's first chunk, and its audio, which goes on to the track's end),
// and neither of Ladder and Extra may hold the last one of the other: what a
// viewer waits for never stands behind a long task that nobody waits for. With
// fewer, one is kept for First.
type slots struct {
	mu    sync.Mutex
	total int
	used  map[catalog.Class]int
	// draining counts tasks that have given up their slot and haven't ended.
	draining int
	freed    chan struct{}
}

func newSlots(n int) *slots {
	return &slots{total: n, used: map[catalog.Class]int{}, freed: make(chan struct{})}
}

func (s *slots) free(c catalog.Class) bool {
	others := s.used[catalog.Ladder] + s.used[catalog.Extra]
	if others+s.used[catalog.First] >= s.total {
		return false
	}
	return c == catalog.First || others < max(1, s.total-2) && s.used[c] < max(1, s.total-3)
}

func (s *slots) take(c catalog.Class) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.free(c) {
		return false
	}
	s.used[c]++
	return true
}

func (s *slots) release(c catalog.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[c]--
	close(s.freed)
	s.freed = make(chan struct{})
}

// slot is held by one task, and given up once: when its work ends, or before
// that, when only what needs no processor is left of it.
type slot struct {
	of    *slots
	class catalog.Class
	mu    sync.Mutex
	state slotState
}

type slotState int

const (
	slotHeld slotState = iota
	slotDraining
	slotFree
)

// drain lets the next task begin. Of the tasks that drain, no more than there
// are slots keep others from holding theirs.
func (s *slot) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == slotHeld && s.of.drain(s.class) {
		s.state = slotDraining
	}
}

func (s *slot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case slotHeld:
		s.of.release(s.class)
	case slotDraining:
		s.of.drained()
	case slotFree:
	}
	s.state = slotFree
}

func (s *slots) drain(c catalog.Class) bool {
	s.mu.Lock()
	full := s.draining >= s.total
	if !full {
		s.draining++
	}
	s.mu.Unlock()
	if full {
		return false
	}
	s.release(c)
	return true
}

func (s *slots) drained() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining--
}

// await waits until the class could take a slot; false when ctx ended.
func (s *slots) await(ctx context.Context, c catalog.Class) bool {
	for {
		s.mu.Lock()
		ok, freed := s.free(c), s.freed
		s.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if ok {
			return true
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}
