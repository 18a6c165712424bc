package scenario

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Limits of what a scenario may ask for: a drill runs on one machine and ends.
const (
	maxFile     = 64 << 10
	maxSteps    = 500
	maxPlaces   = 16
	maxViewers  = 2000 // near one region
	maxCreators = 16
	maxBrowsers = 4
	maxLength   = 3 * time.Hour
	minBuffer   = 2 * time.Second
	maxBuffer   = 2 * time.Minute
	minControl  = 5 * time.Second
	maxDelay    = 5 * time.Second
	maxShare    = 0.98
	maxClock    = 24 * time.Hour
)

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$`)

// Read reads the scenario at path. The error is an *Error unless the file can't
// be read.
func Read(path string) (Scenario, error) {
	f, err := os.Open(path)
	if err != nil {
		return Scenario{}, fmt.Errorf("scenario: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Scenario{}, fmt.Errorf("scenario %s: %w", path, err)
	}
	return Parse(path, b)
}

// Parse decodes one scenario; file names it in errors.
func Parse(file string, b []byte) (Scenario, error) {
	var s Scenario
	fail := func(line int, format string, a ...any) (Scenario, error) {
		return Scenario{}, &Error{File: file, Problems: []Problem{{line, fmt.Sprintf(format, a...)}}}
	}
	if len(b) > maxFile {
		return fail(0, "it is larger than %d KiB; split it into several scenarios", maxFile>>10)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict(), yaml.DisallowUnknownField())
	if err := dec.Decode(&s); err != nil {
		if errors.Is(err, io.EOF) {
			return fail(0, "it is empty; write a scenario as docs/operate/drills.md shows")
		}
		line, change := explain(err)
		return fail(line, "%s", change)
	}
	if err := dec.Decode(new(Scenario)); !errors.Is(err, io.EOF) {
		return fail(0, "it holds more than one document; keep one scenario a file")
	}
	tree, err := parser.ParseBytes(b, 0)
	if err != nil {
		line, change := explain(err)
		return fail(line, "%s", change)
	}
	c := checker{tree: tree}
	c.scenario(&s)
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		return Scenario{}, &Error{File: file, Problems: c.problems}
	}
	return s, nil
}

// explain takes line and message out of the decoder's errors.
func explain(err error) (int, string) {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return 0, err.Error()
	}
	line := 0
	if t := ye.GetToken(); t != nil && t.Position != nil {
		line = t.Position.Line
	}
	message := ye.GetMessage()
	if strings.HasPrefix(message, "unknown field") {
		message += ": remove it, or correct its spelling"
	}
	return line, message
}

type checker struct {
	tree     *ast.File
	problems []Problem
}

// bad notes what to change at a path such as "$.steps[0].on".
func (c *checker) bad(path, format string, a ...any) {
	c.problems = append(c.problems, Problem{c.line(path), strings.TrimPrefix(path, "$.") + ": " + fmt.Sprintf(format, a...)})
}

// line of a path, or of the nearest thing above it that the file has.
func (c *checker) line(path string) int {
	for path != "$" {
		p, err := yaml.PathString(path)
		if err == nil {
			node, err := p.FilterFile(c.tree)
			if err == nil && node != nil && node.GetToken() != nil {
				return node.GetToken().Position.Line
			}
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut <= 0 {
			break
		}
		path = path[:cut]
	}
	return 1
}

func (c *checker) scenario(s *Scenario) {
	if !name.MatchString(s.Name) {
		c.bad("$.name", "%q: want small letters, digits and hyphens, such as kill-region", s.Name)
	}
	if s.Title == "" || strings.Contains(s.Title, "\n") {
		c.bad("$.title", "want one line that says what happens")
	}
	if s.Shows == "" {
		c.bad("$.shows", "say what the scenario shows")
	}
	c.load(s)
	wrong := map[string]int{} // steps whose clocks nothing has set right
	for i, step := range s.Steps {
		c.step(s, i)
		if back := step.Process == "" && (step.Fault == Kill || step.Fault == Stop); back {
			delete(wrong, step.On)
		}
		if step.Clock != 0 {
			wrong[step.On] = i
		}
	}
	for on, i := range wrong {
		c.bad(fmt.Sprintf("$.steps[%d].clock", i), "nothing sets the clocks of %s right: stop it once more, without clock", on)
	}
	if len(s.Steps) > maxSteps {
		c.bad("$.steps", "%d steps: want at most %d", len(s.Steps), maxSteps)
	}
	if s.Length() > maxLength {
		c.bad("$.watch", "the scenario takes %v: want at most %v", s.Length(), maxLength)
	}
	c.objectives(s)
}

func (c *checker) load(s *Scenario) {
	l := &s.Load
	counts := func(path string, list []int, limit int) int {
		sum := 0
		if len(list) > maxPlaces {
			c.bad(path, "%d numbers: want one for each region, at most %d", len(list), maxPlaces)
		}
		for i, n := range list {
			sum += n
			if n < 0 || n > limit {
				c.bad(fmt.Sprintf("%s[%d]", path, i), "%d: want 0 to %d", n, limit)
			}
		}
		return sum
	}
	if counts("$.load.viewers", l.Viewers, maxViewers) == 0 {
		c.bad("$.load.viewers", "want at least one viewer: a drill nobody watches shows nothing")
	}
	browsers := counts("$.load.browsers", l.Browsers, maxBrowsers)
	creators := counts("$.load.creators", l.Creators, maxCreators)
	if l.Askers < 0 || l.Askers > MaxAskers {
		c.bad("$.load.askers", "%d: want 0 to %d", l.Askers, MaxAskers)
	}
	if d := l.Buffer.Std(); d < minBuffer || d > maxBuffer {
		c.bad("$.load.buffer", "%v: want %v to %v", d, minBuffer, maxBuffer)
	}
	if s.WarmUp < l.Buffer {
		c.bad("$.warm_up", "%v: want at least the buffer's %v, else viewers have less in hand", s.WarmUp.Std(), l.Buffer.Std())
	}
	if s.Control.Std() < minControl {
		c.bad("$.control", "%v: want at least %v to compare with", s.Control.Std(), minControl)
	}
	if s.Watch < 0 {
		c.bad("$.watch", "%v: want 0s or more", s.Watch.Std())
	}
	o := s.Objectives
	if browsers == 0 && o.BrowserStalls != nil {
		c.bad("$.objectives.browser_stalls", "there are no browsers: add load.browsers, or leave it out")
	}
	if creators == 0 {
		for path, asked := range map[string]bool{"writes": o.Writes != nil, "uploads": o.Uploads != nil, "encoding": o.Encoding != nil, "ready": o.Ready != nil} {
			if asked {
				c.bad("$.objectives."+path, "nobody creates anything: add load.creators, or leave it out")
			}
		}
	}
}

func (c *checker) step(s *Scenario, i int) {
	at := fmt.Sprintf("$.steps[%d]", i)
	step := &s.Steps[i]
	if step.At < 0 {
		c.bad(at+".at", "%v: want 0s or more", step.At.Std())
	}
	if i > 0 && step.At < s.Steps[i-1].At {
		c.bad(at+".at", "%v: before the step above it; put steps in order", step.At.Std())
	}
	if !slices.Contains(Faults, step.Fault) {
		c.bad(at+".fault", "%q: want one of %v", step.Fault, Faults)
	}
	if step.On == "" {
		c.bad(at+".on", "want a region's name, or one of leader, follower, first, second, third")
	}
	if step.Direction != "" && step.Fault != Silence {
		c.bad(at+".direction", "only silence has a direction; remove it")
	}
	if step.Direction != "" && step.Direction != Both && step.Direction != In && step.Direction != Out {
		c.bad(at+".direction", "%q: want in, out or both", step.Direction)
	}
	if step.Process != "" && step.Fault != Kill && step.Fault != Hang && step.Fault != Slow {
		c.bad(at+".fault", "a process can be killed, hung or slowed, not %q; leave process out to %[1]s the region", step.Fault)
	}
	c.slow(at, step)
	if step.Wipe && (step.Fault != Kill || step.Process != "") {
		c.bad(at+".wipe", "only a killed region can come back empty; remove it")
	}
	if (step.Clock != 0 || step.Upgrade) && (step.Fault != Kill && step.Fault != Stop || step.Process != "") {
		c.bad(at+".fault", "only a region that was killed or stopped can come back with another clock or version; remove clock and upgrade")
	}
	if d := step.Clock.Std(); d.Abs() > maxClock || d%time.Second != 0 {
		c.bad(at+".clock", "%v: want whole seconds, up to %v ahead or behind", d, maxClock)
	}
	switch killed := step.Fault == Kill && step.Process != ""; {
	case step.For < 0:
		c.bad(at+".for", "%v: want a positive duration", step.For.Std())
	case killed && step.For > 0:
		c.bad(at+".for", "a killed process is brought back by the platform; remove it")
	case !killed && step.For == 0:
		c.bad(at+".for", "say how long it lasts: a drill leaves the platform as it found it")
	}
}

// slow checks what says how slow something is.
func (c *checker) slow(at string, step *Step) {
	network := step.Delay != 0 || step.Loss != 0 || step.Rate != 0
	switch {
	case step.Fault != Slow:
		if network || step.Share != 0 {
			c.bad(at+".fault", "delay, loss, rate and share say how slow something is, not how to %s it; remove them", step.Fault)
		}
	case step.Process == "":
		if !network || step.Share != 0 {
			c.bad(at+".fault", "say how slow the region is by delay, loss or rate, and leave out share, which is for processes")
		}
	case network || step.Share <= 0 || step.Share > maxShare:
		c.bad(at+".share", "say for which share of every second the process stands still, up to %v, and leave out delay, loss and rate, which are for regions", maxShare)
	}
	if step.Delay < 0 || step.Delay.Std() > maxDelay {
		c.bad(at+".delay", "%v: want 0s to %v", step.Delay.Std(), maxDelay)
	}
	if step.Loss < 0 || step.Loss > 1 {
		c.bad(at+".loss", "%v: want 0 to 1", step.Loss)
	}
	if step.Rate < 0 {
		c.bad(at+".rate", "%d: want bits per second", step.Rate)
	}
}

func (c *checker) objectives(s *Scenario) {
	o := s.Objectives
	asked := 0
	count := func(path string, v *int) {
		if v == nil {
			return
		}
		if asked++; *v < 0 {
			c.bad("$.objectives."+path, "%d: want 0 or more", *v)
		}
	}
	length := func(path string, v *Duration, faults bool) {
		if v == nil {
			return
		}
		if asked++; *v < 0 {
			c.bad("$.objectives."+path, "%v: want 0s or more", v.Std())
		}
		if faults && len(s.Steps) == 0 {
			c.bad("$.objectives."+path, "nothing is lost in this scenario: add steps, or leave it out")
		}
	}
	count("stalls", o.Stalls)
	count("plain_stalls", o.PlainStalls)
	count("false_moves", o.FalseMoves)
	count("moves", o.Moves)
	count("failed_opens", o.FailedOpens)
	count("corrupt", o.Corrupt)
	count("lost", o.Lost)
	count("leaks", o.Leaks)
	count("denied", o.Denied)
	length("reroute.redirect", o.Reroute.Redirect, true)
	length("reroute.steering", o.Reroute.Steering, true)
	length("reroute.dns", o.Reroute.DNS, true)
	length("moved", o.Moved, true)
	length("wrong_region", o.WrongRegion, false)
	length("start_up", o.StartUp, false)
	length("writes", o.Writes, false)
	length("uploads", o.Uploads, false)
	length("encoding", o.Encoding, false)
	length("ready", o.Ready, false)
	length("recovery", o.Recovery, true)
	length("reconciled", o.Reconciled, false)
	if asked == 0 {
		c.bad("$.objectives", "want at least one: a drill that can't fail shows nothing")
	}
}
