package scenario

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// quietBetween faults of random scenarios.
	quietBetween = 3 * time.Second
	// comesBack is how long a region may take to be back after it was killed or
	// stopped; until then nothing else happens to it, and no other region is lost.
	comesBack = 45 * time.Second
	regionsIn = 3
)

// Random makes a scenario of so many minutes in which anything may happen at any
// time, but for what no platform of three regions can survive: two regions are
// not lost at once. The same seed makes the same scenario. It judges what must
// hold whatever happens: nothing acknowledged is lost, nothing wrong is served,
// and in the end all is well.
func Random(seed uint64, minutes int) (Scenario, error) {
	if minutes < 1 || minutes > 120 {
		return Scenario{}, fmt.Errorf("%d minutes: want 1 to 120", minutes)
	}
	r := rand.New(rand.NewPCG(seed, 0x6d657269))
	zero := 0
	long := Duration(3 * time.Minute)
	s := Scenario{
		Name: fmt.Sprintf("random-%d", seed), Title: fmt.Sprintf("Whatever comes, seed %d", seed),
		Shows:  "Random faults for a while. What was acknowledged stays, what is served is what was stored, and in the end all is well again.",
		Load:   Load{Viewers: []int{12, 10, 8}, Creators: []int{1, 1, 1}, Buffer: Duration(10 * time.Second)},
		WarmUp: Duration(14 * time.Second), Control: Duration(8 * time.Second), Watch: Duration(5 * time.Second),
		Objectives: Objectives{Corrupt: &zero, Lost: &zero, Leaks: &zero, Denied: &zero, Ready: &long, Recovery: &long, Reconciled: &long},
	}
	end := time.Duration(minutes) * time.Minute
	busy := make([]time.Duration, regionsIn) // until when something is done to a region
	lost := time.Duration(0)                 // until when a region is lost
	for at := time.Duration(0); ; {
		step, takes := randomStep(r)
		on := r.IntN(regionsIn)
		step.On = []string{First, Second, Third}[on]
		begin := max(at, busy[on])
		if step.Process == "" {
			begin = max(begin, lost)
		}
		begin = begin.Round(100 * time.Millisecond)
		if begin+step.For.Std() > end {
			break
		}
		step.At = Duration(begin)
		busy[on] = begin + takes
		if step.Process == "" {
			lost = begin + takes
		}
		s.Steps = append(s.Steps, step)
		at = max(at, begin-takes/2) + quietBetween + time.Duration(r.Int64N(int64(9*time.Second)))
		if len(s.Steps) == maxSteps {
			break
		}
	}
	slices.SortStableFunc(s.Steps, func(a, b Step) int { return int(a.At - b.At) })
	return s, nil
}

// randomStep is a fault that lasts, with everything it brings, for takes.
func randomStep(r *rand.Rand) (s Step, takes time.Duration) {
	lasts := func(from, to int) Duration {
		return Duration(time.Duration(from+r.IntN(to-from+1)) * time.Second)
	}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	processes := []string{"api", "encoder", "geodns", "edge-1", "edge-2", "minio", "nats", "postgres", "etcd"}
	switch n := r.IntN(13); {
	case n < 4:
		s.Fault, s.Process = Kill, pick(processes...)
		return s, 20 * time.Second
	case n < 6:
		s.Fault, s.Process, s.For = Hang, pick(processes...), lasts(3, 15)
		return s, s.For.Std() + 10*time.Second
	case n < 7:
		s.Fault, s.Process, s.For = Slow, pick(processes...), lasts(3, 15)
		s.Share = float64(3+r.IntN(7)) / 10
		return s, s.For.Std() + 10*time.Second
	case n < 8:
		s.Fault, s.For = Kill, lasts(3, 20)
		s.Wipe = r.IntN(4) == 0
		return s, s.For.Std() + comesBack
	case n < 9:
		s.Fault, s.For = Hang, lasts(3, 20)
		return s, s.For.Std() + 20*time.Second
	case n < 10:
		s.Fault, s.For = Silence, lasts(3, 20)
		s.Direction = Direction(pick(string(Both), string(In), string(Out)))
		return s, s.For.Std() + 20*time.Second
	case n < 11:
		s.Fault, s.For = Slow, lasts(3, 20)
		s.Delay = Duration(time.Duration(50+r.IntN(450)) * time.Millisecond)
		s.Loss = float64(r.IntN(6)) / 100
		return s, s.For.Std() + 20*time.Second
	case n < 12:
		s.Fault, s.For = Fill, lasts(3, 20)
		return s, s.For.Std() + 20*time.Second
	}
	s.Fault, s.For = Stop, lasts(3, 15)
	return s, s.For.Std() + comesBack
}
