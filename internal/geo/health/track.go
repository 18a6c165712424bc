package health

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// outcome is what one probe found.
type outcome int

const (
	good outcome = iota
	refused
	timedOut
	// bad is any other failure: reset, 5xx, short body.
	bad
	// void says nothing about the target.
	void
)

func (o outcome) String() string {
	return [...]string{"good", "refused", "timed_out", "bad", "void"}[o]
}

const (
	// strikes in a row that take a target down; a refusal needs only one. One that
	// fails now and then anyway needs strikesFlaky: by twos it would be down again and
	// again, all of it, while a share of its viewers elsewhere is what helps.
	strikesDown  = 2
	strikesFlaky = 4
	// good answers in a row that bring a target back.
	goodsUp = 2
)

// tracker turns a target's outcomes into the own view of it. The zero value
// has seen nothing.
type tracker struct {
	seen, down     bool
	strikes, goods int
	why            string
	// mute while nothing at all is heard; lostAt is when it went down after it had
	// answered; restored when it was brought back because it wasn't the one at fault.
	mute     bool
	lostAt   time.Time
	restored bool
	flaps    flaps
	quality  quality
	before   quality // as it was when it went down
}

// observe adds an outcome, and for a good one how long it took, 0 when that says
// nothing about the target, and reports whether the view changed.
func (t *tracker) observe(o outcome, why string, took time.Duration, now time.Time) bool {
	first, before := !t.seen, t.down
	answered := t.goods >= goodsUp // perhaps held down all the same
	t.quality.observe(o, took, now)
	switch o {
	case void:
		return false
	case good:
		t.strikes = 0
		t.goods++
		if t.goods >= goodsUp || first {
			if t.down && t.flaps.hold(now) {
				t.why = "up and down again and again"
				break
			}
			if t.down {
				// What took it down is not the partial failure that sheds viewers, but
				// what failed before may be: it is as flaky as it was.
				t.quality.failed, t.quality.seen = t.before.failed, t.before.seen
			}
			t.down, t.why = false, ""
		}
	case refused:
		t.goods, t.strikes = 0, strikesFlaky
		t.down, t.why = true, why
	default:
		t.goods = 0
		t.strikes++
		if t.strikes >= strikesFlaky || t.strikes >= strikesDown && !t.quality.flaky(t.strikes) {
			t.down, t.why = true, why
		}
	}
	if t.down && !before {
		t.quality.lost()
		t.before = t.quality
		t.restored = false
		if !first {
			t.lostAt = now
		}
	}
	t.mute = mute(o, why)
	if t.down && (!before || answered && o != good) {
		t.flaps.lost(now)
	}
	t.seen = true
	return first || t.down != before
}

// restore undoes a loss that was another's fault.
func (t *tracker) restore() {
	if !t.down {
		return
	}
	t.down, t.why, t.restored = false, "", true
	t.strikes, t.goods = 0, goodsUp
	t.flaps.forgive()
	t.quality.failed, t.quality.seen = t.before.failed, t.before.seen
}

// mute reports whether an outcome means that nothing at all came back.
func mute(o outcome, why string) bool { return o == timedOut || o == bad && why == unreachable }

const unreachable = "unreachable"

// classify tells what a failed request means.
func classify(err error) (outcome, string) {
	var n net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused, "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return timedOut, "timed out twice"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return bad, unreachable
	default:
		return bad, "connection broken"
	}
}
