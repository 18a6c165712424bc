package wan

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxDelay keeps a typing error from looking like silence.
	maxDelay = 10 * time.Second
	// maxBacklog is how much traffic a link with a rate holds back before it drops.
	maxBacklog = 500 * time.Millisecond
	// batchSize is how many due packets are taken from a queue at a time.
	batchSize = 32
)

// Link is the condition of one direction between two nodes. The zero value
// passes everything at once.
type Link struct {
	// Delay of every packet: half a round trip.
	Delay time.Duration
	// Jitter is the most a packet takes longer than Delay, evenly spread. As
	// packets never overtake, dense traffic comes closer to Delay + Jitter.
	Jitter time.Duration
	// Loss is the share of packets lost at random, 0 to 1.
	Loss float64
	// Rate in bits per second; 0 is unlimited.
	Rate int64
	// Silent lets nothing through.
	Silent bool
}

// Validate returns every problem of the link, joined.
func (l Link) Validate() error {
	var errs []error
	if l.Delay < 0 || l.Jitter < 0 || l.Delay+l.Jitter > maxDelay {
		errs = append(errs, fmt.Errorf("delay %v, jitter %v: want 0 to %v together", l.Delay, l.Jitter, maxDelay))
	}
	if !(l.Loss >= 0 && l.Loss <= 1) {
		errs = append(errs, fmt.Errorf("loss %v: want 0 to 1", l.Loss))
	}
	if l.Rate < 0 {
		errs = append(errs, fmt.Errorf("rate %d: want bits per second, or 0 for unlimited", l.Rate))
	}
	return errors.Join(errs...)
}

// packet is size bytes of buf, due at a time since the link began.
type packet struct {
	buf  *buffer
	size int
	due  time.Duration
}

// link carries packets from one node to another: one goroutine, the reader of
// the source, sends; run delivers.
type link struct {
	wanted    Link                 // the network's mutex guards it
	condition atomic.Pointer[Link] // wanted, Silent also when one of the nodes is
	to        io.Writer
	buffers   *buffers
	limit     int64
	began     time.Time
	counts    counts

	// The sender's.
	random   *rand.Rand
	free     time.Duration // when the line has sent what was accepted
	last     time.Duration // when the last accepted packet is due
	queueing atomic.Int64  // bytes of buffers in the queue

	mu    sync.Mutex
	queue []packet // ring
	head  int
	used  int

	gate sync.Mutex // held while packets are written
	wake chan struct{}
	stop chan struct{}
}

func newLink(to io.Writer, pool *buffers, limit int64, seed [2]uint64) *link {
	l := &link{to: to, buffers: pool, limit: limit, began: time.Now(), random: rand.New(rand.NewPCG(seed[0], seed[1])),
		wake: make(chan struct{}, 1), stop: make(chan struct{})}
	l.condition.Store(&Link{})
	return l
}

// set changes the condition. When it returns, it holds for packets on their way
// as well, as far as it is about silence.
func (l *link) set(c Link) {
	l.condition.Store(&c)
	l.gate.Lock()
	defer l.gate.Unlock()
}

// admit decides over a packet of the given size: when it is due, or that it is
// dropped.
func (l *link) admit(size, capacity int) (due time.Duration, ok bool) {
	c := l.condition.Load()
	switch {
	case c.Silent:
		l.counts.silent.Add(1)
		return 0, false
	case c.Loss > 0 && l.random.Float64() < c.Loss:
		l.counts.lost.Add(1)
		return 0, false
	case l.queueing.Load()+int64(capacity) > l.limit:
		l.counts.overflow.Add(1)
		return 0, false
	}
	now := time.Since(l.began)
	sent := now
	if c.Rate > 0 {
		if l.free > now+maxBacklog {
			l.counts.overflow.Add(1)
			return 0, false
		}
		sent = max(now, l.free) + time.Duration(float64(size)*8/float64(c.Rate)*float64(time.Second))
	}
	l.free = sent
	due = sent + c.Delay
	if c.Jitter > 0 {
		due += time.Duration(l.random.Int64N(int64(c.Jitter) + 1))
	}
	l.last = max(l.last, due)
	return l.last, true
}

// send queues the packet in b[:size] if it is admitted. When the packet is kept
// in b itself, b is gone and send returns true.
func (l *link) send(b *buffer, size int) (taken bool) {
	capacity := largeBuffer
	if size <= smallBuffer {
		capacity = smallBuffer
	}
	due, ok := l.admit(size, capacity)
	if !ok {
		return false
	}
	taken = len(b.bytes) == capacity
	if !taken {
		kept := l.buffers.get(size)
		copy(kept.bytes, b.bytes[:size])
		b = kept
	}
	l.queueing.Add(int64(capacity))
	l.push(packet{b, size, due})
	return taken
}

func (l *link) push(p packet) {
	l.mu.Lock()
	if l.used == len(l.queue) {
		grown := make([]packet, max(batchSize, 2*len(l.queue)))
		k := copy(grown, l.queue[l.head:])
		copy(grown[k:], l.queue[:l.head])
		l.queue, l.head = grown, 0
	}
	l.queue[(l.head+l.used)%len(l.queue)] = p
	l.used++
	first := l.used == 1
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// take moves packets that are due into batch. With none, it returns how long
// until the next, or ok false when the queue is empty.
func (l *link) take(batch []packet) (taken int, wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used == 0 {
		return 0, 0, false
	}
	now := time.Since(l.began)
	for taken < len(batch) && l.used > 0 && l.queue[l.head].due <= now {
		batch[taken] = l.queue[l.head]
		l.queue[l.head] = packet{}
		l.head = (l.head + 1) % len(l.queue)
		l.used--
		taken++
	}
	if taken > 0 {
		return taken, 0, true
	}
	return 0, l.queue[l.head].due - now, true
}

// run delivers packets when they are due, until the link is stopped.
func (l *link) run() {
	timer := time.NewTimer(maxDelay)
	defer timer.Stop()
	batch := make([]packet, batchSize)
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		k, wait, ok := l.take(batch)
		switch {
		case k > 0:
			l.deliver(batch[:k])
		case ok:
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.stop:
			}
		default:
			select {
			case <-l.wake:
			case <-l.stop:
			}
		}
	}
}

func (l *link) deliver(batch []packet) {
	l.gate.Lock()
	defer l.gate.Unlock()
	for i, p := range batch {
		switch {
		case l.condition.Load().Silent:
			l.counts.silent.Add(1)
		default:
			// A device that is down or closing loses packets, as any does; the
			// reader of a device that failed reports it.
			if _, err := l.to.Write(p.buf.bytes[:p.size]); err != nil {
				l.counts.refused.Add(1)
				break
			}
			l.counts.packets.Add(1)
			l.counts.bytes.Add(uint64(p.size))
		}
		l.queueing.Add(-int64(len(p.buf.bytes)))
		l.buffers.put(p.buf)
		batch[i] = packet{}
	}
}
