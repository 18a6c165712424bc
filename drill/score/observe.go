package score

import (
	"time"

	"github.com/meridian-video/meridian/drill/browsers"
	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/region"
)

// Happened is a step as it was done.
type Happened struct {
	Fault target.Fault
	// Began and Applied are before and after it was made, Healing and Healed before
	// and after it was undone; zero if that wasn't done.
	Began, Applied, Healing, Healed time.Time
	// Err is why it couldn't be made or undone.
	Err string
}

// until is when the fault ends to be expected: as it begins to be undone, or at end.
func (h Happened) until(end time.Time) time.Time {
	if h.Healing.IsZero() {
		return end
	}
	return h.Healing
}

// Pressure is a second of the machine's CPUs.
type Pressure struct {
	At time.Time
	// Some is the share of time in which a process that could run had to wait, 0 to 1.
	Some float64
}

// Guarded is what became of requests for a private video.
type Guarded struct {
	// Given and Refused are those without a token, Admitted and Denied those with one.
	Given, Refused, Admitted, Denied int
	// By is the edge that gave it last without, DeniedBy that refused it last with one.
	By, DeniedBy string
}

// Observations of one run.
type Observations struct {
	Table *region.Table
	// Viewers near each region, in table order.
	Viewers []int
	// Browsers are the real players among them.
	Browsers []browsers.Seen
	// ControlBegan, FaultBegan and End are the ends of the phases.
	ControlBegan, FaultBegan, End time.Time
	Steps                         []Happened
	Events                        []fleet.Event
	Samples                       []fleet.Sample
	Answers                       []fleet.Answer
	Delivered                     []fleet.Delivery
	// Dropped is what recorders had no room for.
	Dropped int
	// Writes by the region whose API was asked; nil without creators.
	Writes map[string][]creators.Write
	// LostWrites are acknowledged titles that are gone.
	LostWrites []string
	Uploads    []creators.Upload
	// Advances are when more of an upload was seen to be encoded.
	Advances []time.Time
	// Creators is how many uploaded.
	Creators int
	// Whole, AllReady and Reconciled are when the platform, the uploads and the
	// stores were as they should be; zero if they never were. Why says what was wrong.
	Whole, AllReady, Reconciled time.Time
	Why                         []string
	Stores                      *repair.Report
	// Guarded is nil where there was no private video.
	Guarded  *Guarded
	Pressure []Pressure
}
