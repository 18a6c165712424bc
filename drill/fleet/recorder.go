package fleet

import "time"

// Kind of an event.
type Kind string

// The kinds of events. Seconds, Region, Edge and Text mean what is said here.
const (
	// Started: the first picture, Seconds after the viewer opened the video.
	Started Kind = "started"
	// FailedOpen: there was no picture after Seconds.
	FailedOpen Kind = "failed to open"
	// Stalled: the picture stood still from At for Seconds; Region served it before,
	// and Had seconds were once in hand.
	Stalled Kind = "stalled"
	// Served: from now on media come from Edge of Region; Text is the edge before.
	Served Kind = "served"
	// Moved: steering changed the pathway, to Text.
	Moved Kind = "moved"
	// Failed: a request failed; Text says how, Region whom it went to.
	Failed Kind = "failed"
	// Corrupt: bytes aren't those that were served before; Text is the path.
	Corrupt Kind = "corrupt"
	// Refused: the platform said no, for good: Text.
	Refused Kind = "refused"
	// Ended: the whole video was seen.
	Ended Kind = "ended"
)

// Event is something that happened to a viewer.
type Event struct {
	At      time.Time
	Kind    Kind
	Viewer  int
	Near    string
	Way     Way
	Region  string
	Edge    string
	Seconds float64
	Had     float64
	Text    string
}

// Sample is how the fleet was at a moment.
type Sample struct {
	At time.Time
	// Opening, Playing and Standing still; ended ones are opening again.
	Opening, Playing, Standing int
	// By are the viewers by serving region, in table order, Wrong those by where
	// they are whose region isn't the nearest that lives.
	By, Wrong []int
	// Least and Median seconds in hand of those who play.
	Least, Median float64
	// Bytes received since the fleet began.
	Bytes int64
}

const (
	maxEvents  = 200_000
	maxSamples = 20_000
)

// Recorder keeps what happened. Its methods may be called concurrently.
type Recorder struct {
	events  kept[Event]
	samples kept[Sample]
}

// Note keeps an event.
func (r *Recorder) Note(e Event) { r.events.add(e, maxEvents) }

func (r *Recorder) sample(s Sample) { r.samples.add(s, maxSamples) }

// Events so far, in the order they were noted. The slice isn't changed any more.
func (r *Recorder) Events() []Event { return r.events.all() }

// Samples so far, one a second.
func (r *Recorder) Samples() []Sample { return r.samples.all() }

// Dropped is how many events and samples had no room.
func (r *Recorder) Dropped() int { return r.events.lost() + r.samples.lost() }
