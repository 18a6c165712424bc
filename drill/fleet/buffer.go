package fleet

import "time"

const (
	// StallAfter is how long an empty buffer may stay so until it is a stall.
	StallAfter = 500 * time.Millisecond
	// enough is how much must be in hand, in seconds, for the picture to move.
	enough = 0.1
)

// Stall is a time without progress on an empty buffer.
type Stall struct {
	At  time.Time
	For time.Duration
	// Had is the most seconds that were in hand since the first picture or the last
	// stall before.
	Had float64
}

// Buffer is what a player has in hand, in media time: what is buffered of each
// track, and a playhead that follows the clock while all tracks have something.
// The zero value is no buffer; use NewBuffer.
type Buffer struct {
	// ends of the tracks, and the playhead, in seconds of media time.
	ends     []float64
	position float64
	// duration of the whole, 0 while unknown.
	duration float64
	started  bool
	at       time.Time // of position
	empty    time.Time // since when nothing is in hand; zero otherwise
	most     float64   // in hand since the last stall
}

// NewBuffer returns an empty one for so many tracks.
func NewBuffer(tracks int, now time.Time) *Buffer {
	return &Buffer{ends: make([]float64, tracks), at: now}
}

// End is where a track's buffer ends.
func (b *Buffer) End(track int) float64 { return b.ends[track] }

// Ahead is how many seconds are in hand in all tracks.
func (b *Buffer) Ahead() float64 {
	least := b.ends[0]
	for _, e := range b.ends[1:] {
		least = min(least, e)
	}
	return max(0, least-b.position)
}

// Position of the playhead.
func (b *Buffer) Position() float64 { return b.position }

// Seek begins at a position; only before anything has arrived.
func (b *Buffer) Seek(position float64) {
	b.position = position
	for i := range b.ends {
		b.ends[i] = position
	}
}

// Started reports whether there has been a first picture.
func (b *Buffer) Started() bool { return b.started }

// SetDuration says where the video ends.
func (b *Buffer) SetDuration(seconds float64) { b.duration = seconds }

// Done reports whether the playhead has reached the end.
func (b *Buffer) Done() bool { return b.started && b.duration > 0 && b.position >= b.duration-enough }

// Stalled reports whether the picture stands still, and has for StallAfter.
func (b *Buffer) Stalled(now time.Time) bool {
	return !b.empty.IsZero() && now.Sub(b.empty) >= StallAfter
}

// Advance moves the playhead to where it is now.
func (b *Buffer) Advance(now time.Time) {
	passed := now.Sub(b.at)
	at := b.at
	b.at = now
	if !b.started || !b.empty.IsZero() || passed <= 0 {
		return
	}
	move := min(passed.Seconds(), b.Ahead())
	b.position += move
	if move < passed.Seconds() && !b.Done() {
		b.empty = at.Add(time.Duration(move * float64(time.Second)))
	}
}

// Append adds what has arrived: a track is buffered up to end. It returns the
// stall that this ends, if there was one.
func (b *Buffer) Append(track int, end float64, now time.Time) *Stall {
	b.Advance(now)
	b.ends[track] = max(b.ends[track], end)
	if b.Ahead() < enough {
		return nil
	}
	b.started = true
	s := b.resume(now)
	b.most = max(b.most, b.Ahead())
	return s
}

// Finish ends watching, and returns the stall that was under way.
func (b *Buffer) Finish(now time.Time) *Stall {
	b.Advance(now)
	return b.resume(now)
}

func (b *Buffer) resume(now time.Time) *Stall {
	if b.empty.IsZero() {
		return nil
	}
	s := Stall{At: b.empty, For: now.Sub(b.empty), Had: b.most}
	b.empty = time.Time{}
	if s.For < StallAfter {
		return nil
	}
	b.most = 0
	return &s
}
