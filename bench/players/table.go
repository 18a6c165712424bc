package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// result is what one player made of one loss.
type result struct {
	Player string `json:"player"`
	Form   string `json:"form"`
	// Buffer is what the player was told to hold, in seconds; 0 is its own.
	Buffer int    `json:"buffer"`
	Fault  string `json:"fault"`
	// Lost are the regions that served it when they were lost; To where it went then.
	Lost []string `json:"lost"`
	To   []string `json:"to"`
	// Position and InHand are where it was and what it held, in seconds, when the
	// first region was lost; InHand is −1 where players don't tell.
	Position float64 `json:"position"`
	InHand   float64 `json:"in_hand"`
	// Rerouted is how long after the loss media came from elsewhere, in seconds: the
	// longer of two; −1 when none came.
	Rerouted float64 `json:"rerouted"`
	Stalls   int     `json:"stalls"`
	Stood    float64 `json:"stood"`   // seconds
	Frozen   float64 `json:"frozen"`  // seconds without progress although media was there
	Skipped  float64 `json:"skipped"` // seconds
	Reached  float64 `json:"reached"` // seconds
	// End tells whether it played to the end, and nothing but small skips was missing.
	End bool `json:"end"`
	// Stuck tells that it stood still when the time was up.
	Stuck  bool     `json:"stuck"`
	Errors []string `json:"errors"`
	// Unseen is how long the machine stood still, in seconds.
	Unseen float64 `json:"unseen"`

	from   string
	lostAt time.Time
}

// atEnd is how far before the end of the film the last position may be, in seconds.
const atEnd = 0.5

// begin notes where the player is at the loss.
func (r *result) begin(w *watcher) {
	m := w.meter.read()
	r.Position, r.InHand = m.position, m.ahead
}

// finish notes how it went.
func (r *result) finish(w *watcher, seconds int) {
	m := w.meter.read()
	r.Stalls, r.Stood, r.Frozen, r.Skipped = m.stalls, m.stood.Seconds(), m.frozen.Seconds(), m.skip
	r.Reached, r.Unseen = m.position, m.unseen.Seconds()
	r.End = m.ended && m.position >= float64(seconds)-atEnd
	r.Stuck = m.stalled && !m.ended
	r.Errors = m.errors
	select {
	case <-w.done:
		if w.err != nil && !errors.Is(w.err, context.DeadlineExceeded) {
			r.Errors = append(r.Errors, w.err.Error())
		}
	default:
	}
}

func (r result) String() string {
	return fmt.Sprintf("%-8s %-9s %-8s %2d s: lost %v at %.1f s with %.1f s in hand, then %v after %.1f s; %d stalls (%.1f s), %.1f s frozen, %.1f s skipped, reached %.1f s, end %v; %q; unseen %.1f s",
		r.Fault, r.Player, r.Form, r.Buffer, r.Lost, r.Position, r.InHand, r.To, r.Rerouted, r.Stalls, r.Stood, r.Frozen, r.Skipped, r.Reached, r.End, r.Errors, r.Unseen)
}

// write leaves all results in the files that were asked for.
func (b *bench) write(ctx context.Context) error {
	var errs []error
	if b.json != "" {
		out, err := json.MarshalIndent(struct {
			Versions map[string]string `json:"versions"`
			Results  []result          `json:"results"`
		}{versions(ctx), b.results}, "", "  ")
		errs = append(errs, err, os.WriteFile(b.json, append(out, '\n'), 0o644))
	}
	if b.markdown != "" {
		errs = append(errs, os.WriteFile(b.markdown, []byte(table(b.results)), 0o644))
	}
	return errors.Join(errs...)
}

var headings = map[string]string{"none": "Nothing lost", "kill": "Killed", "hang": "Hung", "silence": "Silent", turn: "Two killed in turn"}

// table has a part for every fault and a line for every player, form and buffer:
// the worst of its runs.
func table(all []result) string {
	var b strings.Builder
	for _, fault := range append([]string{"none"}, allFaults...) {
		var rows []result
		for _, r := range all {
			if r.Fault != fault {
				continue
			}
			i := slices.IndexFunc(rows, func(x result) bool { return x.Player == r.Player && x.Form == r.Form && x.Buffer == r.Buffer })
			if i < 0 {
				rows = append(rows, r)
			} else if worse(r, rows[i]) {
				rows[i] = r
			}
		}
		if len(rows) == 0 {
			continue
		}
		order := func(r result) int { return slices.IndexFunc(kinds(), func(k kind) bool { return k.name == r.Player }) }
		slices.SortStableFunc(rows, func(x, y result) int {
			if d := order(x) - order(y); d != 0 {
				return d
			}
			if d := strings.Compare(y.Form, x.Form); d != 0 {
				return d
			}
			return x.Buffer - y.Buffer
		})
		fmt.Fprintf(&b, "### %s\n\n| Player | Form | Buffer | In hand | Elsewhere after | Stalls | Stood | Skipped | To the end |\n|---|---|---|---|---|---|---|---|---|\n", headings[fault])
		for _, r := range rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %d | %s | %s | %s |\n", r.Player, r.Form, buffer(r.Buffer), unless(r.InHand < 0, "%.0f s", r.InHand),
				unless(r.Rerouted < 0, "%.1f s", r.Rerouted), r.Stalls, stood(r), unless(r.Skipped == 0, "%.1f s", r.Skipped), end(r))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func worse(a, b result) bool {
	if a.End != b.End {
		return !a.End
	}
	return a.Stood+a.Skipped > b.Stood+b.Skipped
}

func buffer(n int) string {
	if n == 0 {
		return "its own"
	}
	return fmt.Sprintf("%d s", n)
}

func unless(unknown bool, format string, v float64) string {
	if unknown {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

func stood(r result) string {
	switch {
	case r.Stuck:
		return fmt.Sprintf("**%.0f s and counting**", r.Stood)
	case r.Stalls == 0:
		return "0"
	}
	return fmt.Sprintf("%.1f s", r.Stood)
}

func end(r result) string {
	if r.End {
		return "yes"
	}
	return fmt.Sprintf("**to %.0f s**", r.Reached)
}
