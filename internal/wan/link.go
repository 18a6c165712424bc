package wan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxDelay keeps a typing error from looking like silence.
	maxDelay = 10 * time.Second
	// maxBacklog is how much traffic a link with a rate holds back before it drops.
	maxBacklog = 500 * time.Millisecond
	// leastQueue is the room of a queue that has had a packet.
	leastQueue = 32
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

// worse is l with what by adds to it.
func (l Link) worse(by Link) Link {
	l.Delay = min(l.Delay+by.Delay, maxDelay)
	l.Jitter = min(l.Jitter+by.Jitter, maxDelay-l.Delay)
	l.Loss = 1 - (1-l.Loss)*(1-by.Loss)
	if by.Rate > 0 && (l.Rate == 0 || by.Rate < l.Rate) {
		l.Rate = by.Rate
	}
	l.Silent = l.Silent || by.Silent
	return l
}

// packet is size bytes of buf, due at a time since the forwarder began.
type packet struct {
	buf  *buffer
	size int
	due  time.Duration
}

// writer takes a packet at the other end of a link.
type writer interface {
	// write is called with a whole packet; b is the caller's again afterwards.
	write(b []byte) error
}

// link carries packets from one node to another, all on the forwarder's thread
// or with its lock. Times are since the forwarder began.
type link struct {
	wanted    Link // the network's mutex guards it
	condition Link // wanted, Silent also when one of the nodes is
	to        writer
	buffers   *buffers
	limit     int64
	counts    counts

	random   *rand.Rand
	free     time.Duration // when the line has sent what was accepted
	last     time.Duration // when the last accepted packet is due
	queueing int64         // bytes of buffers in the queue

	queue []packet // ring
	head  int
	used  int
}

func newLink(to writer, pool *buffers, limit int64, seed [2]uint64) *link {
	return &link{to: to, buffers: pool, limit: limit, random: rand.New(rand.NewPCG(seed[0], seed[1]))}
}

// change sets the condition from now on. What is on its way, or waits for the line,
// arrives no later than what is sent now: a link that is healed isn't slow for as long
// as its last packet was.
func (l *link) change(to Link, now time.Duration) {
	was := l.condition
	l.condition = to
	if to.Delay == was.Delay && to.Jitter == was.Jitter && to.Rate == was.Rate {
		return
	}
	free := now
	if to.Rate > 0 {
		free += maxBacklog
	}
	latest := free + to.Delay + to.Jitter
	l.free, l.last = min(l.free, free), min(l.last, latest)
	for i := range l.used {
		p := &l.queue[(l.head+i)%len(l.queue)]
		p.due = min(p.due, latest)
	}
}

// admit decides over a packet of the given size: when it is due, or that it is
// dropped.
func (l *link) admit(now time.Duration, size, capacity int) (due time.Duration, ok bool) {
	c := &l.condition
	switch {
	case c.Silent:
		l.counts.silent++
		return 0, false
	case c.Loss > 0 && l.random.Float64() < c.Loss:
		l.counts.lost++
		return 0, false
	case l.queueing+int64(capacity) > l.limit:
		l.counts.overflow++
		return 0, false
	}
	sent := now
	if c.Rate > 0 {
		if l.free > now+maxBacklog {
			l.counts.overflow++
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
func (l *link) send(now time.Duration, b *buffer, size int) (taken bool) {
	capacity := largeBuffer
	if size <= smallBuffer {
		capacity = smallBuffer
	}
	due, ok := l.admit(now, size, capacity)
	if !ok {
		return false
	}
	taken = len(b.bytes) == capacity
	if !taken {
		kept := l.buffers.get(size)
		copy(kept.bytes, b.bytes[:size])
		b = kept
	}
	l.queueing += int64(capacity)
	if l.used == len(l.queue) {
		grown := make([]packet, max(leastQueue, 2*len(l.queue)))
		k := copy(grown, l.queue[l.head:])
		copy(grown[k:], l.queue[:l.head])
		l.queue, l.head = grown, 0
	}
	l.queue[(l.head+l.used)%len(l.queue)] = packet{b, size, due}
	l.used++
	return taken
}

// deliver writes what is due. It returns when the next packet is, or ok false
// when none is on its way.
func (l *link) deliver(now time.Duration) (next time.Duration, ok bool) {
	for l.used > 0 {
		p := l.queue[l.head]
		if p.due > now {
			return p.due, true
		}
		l.queue[l.head] = packet{}
		l.head = (l.head + 1) % len(l.queue)
		l.used--
		switch {
		case l.condition.Silent:
			l.counts.silent++
		// A device that is down or closing loses packets, as any does; reading a
		// device that failed reports it.
		case l.to.write(p.buf.bytes[:p.size]) != nil:
			l.counts.refused++
		default:
			l.counts.packets++
			l.counts.bytes += uint64(p.size)
		}
		l.queueing -= int64(len(p.buf.bytes))
		l.buffers.put(p.buf)
	}
	return 0, false
}
