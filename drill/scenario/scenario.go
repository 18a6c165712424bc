package scenario

import (
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Duration is a time.Duration written as "2s" in YAML.
type Duration time.Duration

// UnmarshalYAML parses a Go duration string.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	text := node.GetToken().Value
	v, err := time.ParseDuration(text)
	if err != nil {
		return &yaml.SyntaxError{Message: fmt.Sprintf("%q: want a duration such as 2s or 1m30s", text), Token: node.GetToken()}
	}
	*d = Duration(v)
	return nil
}

// MarshalText renders d as a Go duration string.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Std is d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Scenario is one drill.
type Scenario struct {
	// Name is unique, and what it is run by: "kill-region".
	Name string `yaml:"name"`
	// Title is one line for people.
	Title string `yaml:"title"`
	// Shows is what it is good for, a sentence or two.
	Shows string `yaml:"shows"`
	// Core scenarios are run when none is named.
	Core bool `yaml:"core,omitempty"`
	Load Load `yaml:"load"`
	// WarmUp is how long viewers watch before anything is counted.
	WarmUp Duration `yaml:"warm_up"`
	// Control is how long everything is counted without a fault.
	Control Duration `yaml:"control"`
	// Steps in the order of their times; none for a run without faults.
	Steps []Step `yaml:"steps,omitempty"`
	// Watch is how long viewers go on once the last fault has been undone.
	Watch      Duration   `yaml:"watch"`
	Objectives Objectives `yaml:"objectives"`
}

// Load is who uses the platform meanwhile.
type Load struct {
	// Viewers near each region, in table order: the first number is for the first
	// region. Regions without a number have none.
	Viewers []int `yaml:"viewers"`
	// Creators near each region, as Viewers.
	Creators []int `yaml:"creators,omitempty"`
	// Browsers near each region, as Viewers: our player in Chromium.
	Browsers []int `yaml:"browsers,omitempty"`
	// Buffer is how much video viewers hold in hand.
	Buffer Duration `yaml:"buffer"`
	// Askers are people near each region with viewers who ask the routers where to
	// go, each once a second by every transport, and 40 times all together; 0 are UsualAskers.
	Askers int `yaml:"askers,omitempty"`
}

// UsualAskers are enough to see routers' last wrong answers; MaxAskers is as many
// addresses as there are near a region.
const (
	UsualAskers = 15
	MaxAskers   = 250
)

// Fault is what happens.
type Fault string

// The faults. A target may not know all of them.
const (
	// Kill ends every process of a region at once, or one process of it.
	Kill Fault = "kill"
	// Hang stops them where they stand: connections are accepted and never answered.
	Hang Fault = "hang"
	// Silence loses every packet to a region (direction in), from it (out), or both.
	Silence Fault = "silence"
	// Stop ends a region in order.
	Stop Fault = "stop"
	// Slow delays and loses packets to and from a region, or leaves them little room;
	// a process stands still for a share of every second.
	Slow Fault = "slow"
	// Fill leaves no room on a region's disk.
	Fill Fault = "fill"
)

// Faults are all of them.
var Faults = []Fault{Kill, Hang, Silence, Stop, Slow, Fill}

// Direction of what a silent region loses, seen from the region.
type Direction string

// The directions.
const (
	Both Direction = "both"
	In   Direction = "in"
	Out  Direction = "out"
)

// Regions that are not named but found when the drill runs.
const (
	// Leader is the region whose PostgreSQL leads.
	Leader = "leader"
	// Follower is the first region, in table order, whose PostgreSQL doesn't.
	Follower = "follower"
	// First, Second and Third are regions in table order.
	First, Second, Third = "first", "second", "third"
)

// Step is one fault.
type Step struct {
	At    Duration `yaml:"at"`
	Fault Fault    `yaml:"fault"`
	// On is a region: its name, or leader, follower, first, second, third.
	On string `yaml:"on"`
	// Process makes it a fault of one process of the region: api, encoder, geodns,
	// edge-1, edge-2, minio, nats, postgres, etcd. Empty: of all of it.
	Process string `yaml:"process,omitempty"`
	// Direction of silence; both if empty.
	Direction Direction `yaml:"direction,omitempty"`
	// For is how long it lasts until it is undone. A killed process isn't undone:
	// the platform itself must bring it back.
	For Duration `yaml:"for,omitempty"`
	// Delay comes on top of the delay of a slow region's packets, one way; a quarter
	// of it more at most, at random.
	Delay Duration `yaml:"delay,omitempty"`
	// Loss is the share of a slow region's packets that are lost, 0 to 1.
	Loss float64 `yaml:"loss,omitempty"`
	// Rate is the most bits per second between a slow region and each other place.
	Rate int64 `yaml:"rate,omitempty"`
	// Share of every second that a slow process stands still, 0 to 1.
	Share float64 `yaml:"share,omitempty"`
	// Clock is what the clocks of a region's services are ahead when it is back.
	Clock Duration `yaml:"clock,omitempty"`
	// Upgrade brings it back with this version of the services, if it had the one before.
	Upgrade bool `yaml:"upgrade,omitempty"`
	// Wipe brings a killed region back with an empty object store.
	Wipe bool `yaml:"wipe,omitempty"`
}

// End is when the step is undone, or happens if there is nothing to undo.
func (s Step) End() time.Duration { return s.At.Std() + s.For.Std() }

// Heals reports whether the step is undone by the drill.
func (s Step) Heals() bool { return s.For > 0 }

func (s Step) String() string {
	what := string(s.Fault) + " " + s.On
	if s.Process != "" {
		what += " " + s.Process
	}
	if s.Direction != "" && s.Direction != Both {
		what += " (" + string(s.Direction) + ")"
	}
	if s.Delay > 0 {
		what += " by " + s.Delay.Std().String()
	}
	if s.Loss > 0 {
		what += fmt.Sprintf(", %.3g %% lost", 100*s.Loss)
	}
	if s.Rate > 0 {
		what += fmt.Sprintf(" to %d bit/s", s.Rate)
	}
	if s.Share > 0 {
		what += fmt.Sprintf(", %.3g %% of the time", 100*s.Share)
	}
	if s.Clock != 0 {
		what += ", clocks then ahead by " + s.Clock.Std().String()
	}
	if s.Upgrade {
		what += ", upgraded then"
	}
	if s.For > 0 {
		what += " for " + s.For.Std().String()
	}
	return what
}

// Objectives are what must hold. Those left out are measured and not judged.
type Objectives struct {
	// Stalls of viewers who are steered (steering and DNS) and had Load.Buffer in
	// hand before: 500 ms without progress on an empty buffer.
	Stalls *int `yaml:"stalls,omitempty"`
	// PlainStalls are stalls of viewers in the plain form, who know no steering.
	PlainStalls *int `yaml:"plain_stalls,omitempty"`
	// BrowserStalls are stalls of browsers that had Load.Buffer in hand before.
	BrowserStalls *int `yaml:"browser_stalls,omitempty"`
	// Reroute is when the last wrong answer of a living router may come after a fault.
	Reroute Reroute `yaml:"reroute,omitempty"`
	// Moved is when the last steered viewer of what was lost has video from elsewhere.
	Moved *Duration `yaml:"moved,omitempty"`
	// WrongRegion is how many seconds a viewer may be sent to another region than
	// the nearest living one, on average.
	WrongRegion *Duration `yaml:"wrong_region,omitempty"`
	// FalseMoves are askers whom a router sent away from the nearest region though
	// nothing was done to it, or, where something was, farther than to the next nearest.
	FalseMoves *int `yaml:"false_moves,omitempty"`
	// Moves are steered viewers who were served from another region than the nearest,
	// for scenarios in which nobody has to.
	Moves *int `yaml:"moves,omitempty"`
	// StartUp is how long 95 of 100 sessions opened meanwhile may take to the first picture.
	StartUp *Duration `yaml:"start_up,omitempty"`
	// FailedOpens are sessions that never came to a first picture.
	FailedOpens *int `yaml:"failed_opens,omitempty"`
	// Corrupt are answers whose bytes aren't those another edge gave, or not all of them.
	Corrupt *int `yaml:"corrupt,omitempty"`
	// Writes is the longest time without a success a creator at a living region may see.
	Writes *Duration `yaml:"writes,omitempty"`
	// Uploads is the longest an upload under way meanwhile may take to be acknowledged.
	Uploads *Duration `yaml:"uploads,omitempty"`
	// Encoding is the longest that nothing more of acknowledged uploads may be encoded
	// while some wait, as creators see it: they look once a second.
	Encoding *Duration `yaml:"encoding,omitempty"`
	// Lost are acknowledged uploads and writes that are gone, and objects no store has.
	Lost *int `yaml:"lost,omitempty"`
	// Leaks are answers that give a private video to somebody without a token.
	Leaks *int `yaml:"leaks,omitempty"`
	// Denied are answers that refuse a private video to somebody with a token.
	Denied *int `yaml:"denied,omitempty"`
	// Ready is how long the last acknowledged upload may take to be ready once the
	// platform is whole again.
	Ready *Duration `yaml:"ready,omitempty"`
	// Recovery is how long the platform may take to be whole after the last undoing.
	Recovery *Duration `yaml:"recovery,omitempty"`
	// Reconciled is how long all stores may take after that to hold what the catalog names.
	Reconciled *Duration `yaml:"reconciled,omitempty"`
}

// Reroute is per transport.
type Reroute struct {
	Redirect *Duration `yaml:"redirect,omitempty"`
	Steering *Duration `yaml:"steering,omitempty"`
	// DNS is of the name servers' answers; resolvers keep them for one TTL more.
	DNS *Duration `yaml:"dns,omitempty"`
}

// IsZero reports whether nothing is asked of any transport.
func (r Reroute) IsZero() bool { return r == Reroute{} }

// Length is how long the scenario's phases take, without waiting for recovery.
func (s Scenario) Length() time.Duration {
	return s.WarmUp.Std() + s.Control.Std() + s.LastEnd() + s.Watch.Std()
}

// Has reports whether one of its steps is this fault.
func (s Scenario) Has(f Fault) bool {
	return slices.ContainsFunc(s.Steps, func(x Step) bool { return x.Fault == f })
}

// Upgrades reports whether it begins with the version before.
func (s Scenario) Upgrades() bool {
	return slices.ContainsFunc(s.Steps, func(x Step) bool { return x.Upgrade })
}

// SetsClocks reports whether it wants a program whose clock can be wrong.
func (s Scenario) SetsClocks() bool {
	return slices.ContainsFunc(s.Steps, func(x Step) bool { return x.Clock != 0 })
}

// Unhealed reports whether a step isn't undone by the drill, or there is none.
func (s Scenario) Unhealed() bool {
	return len(s.Steps) == 0 || slices.ContainsFunc(s.Steps, func(x Step) bool { return !x.Heals() })
}

// LastEnd is when the last step is over.
func (s Scenario) LastEnd() time.Duration {
	var end time.Duration
	for _, step := range s.Steps {
		end = max(end, step.End())
	}
	return end
}

// WithoutBrowsers is the scenario for simulated viewers only.
func (s Scenario) WithoutBrowsers() Scenario {
	s.Load.Browsers, s.Objectives.BrowserStalls = nil, nil
	return s
}

// Scale multiplies the load by f; whoever was there stays at least one.
func (s Scenario) Scale(f float64) Scenario {
	s.Load.Viewers = slices.Clone(s.Load.Viewers)
	for i, n := range s.Load.Viewers {
		if n > 0 {
			s.Load.Viewers[i] = max(1, int(float64(n)*f+0.5))
		}
	}
	return s
}
