package scenario

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

const good = `name: a-drill
title: Something happens
shows: That it does.
load:
  viewers: [3, 0]
  creators: [1]
  buffer: 10s
warm_up: 12s
control: 8s
steps:
  - at: 0s
    fault: kill
    on: leader
    for: 20s
  - {at: 5s, fault: kill, on: eu, process: encoder}
watch: 10s
objectives:
  stalls: 0
  reroute: {dns: 7s}
  writes: 15s
`

func TestParse(t *testing.T) {
	s, err := Parse("x.yaml", []byte(good))
	require.NoError(t, err)
	require.Equal(t, []int{3, 0}, s.Load.Viewers)
	require.Equal(t, 20*time.Second, s.Steps[0].For.Std())
	require.Equal(t, 7*time.Second, s.Objectives.Reroute.DNS.Std())
	require.Nil(t, s.Objectives.Moved)
	require.Equal(t, 50*time.Second, s.Length())
	require.Equal(t, "kill leader for 20s", s.Steps[0].String())
	require.False(t, s.Steps[1].Heals())
	require.Equal(t, []int{9, 0}, s.Scale(3).Load.Viewers)
	require.Equal(t, []int{1, 0}, s.Scale(0.01).Load.Viewers)

	b, err := yaml.Marshal(s)
	require.NoError(t, err)
	again, err := Parse("again", b)
	require.NoError(t, err, "%s", b)
	require.Equal(t, s, again)
}

func TestErrorsNameFileLineAndChange(t *testing.T) {
	for _, c := range []struct {
		old, new string
		line     int
		want     string
	}{
		{"title:", "titel:", 2, "unknown field"},
		{"buffer: 10s", "buffer: ten", 7, "want a duration such as 2s"},
		{"buffer: 10s", "buffer: 1s", 7, "load.buffer: 1s: want 2s to 2m0s"},
		{"viewers: [3, 0]", "viewers: [0, 0]", 5, "a drill nobody watches"},
		{"viewers: [3, 0]", "viewers: [3, -1]", 5, "load.viewers[1]: -1: want 0 to"},
		{"name: a-drill", "name: A drill", 1, "want small letters"},
		{"warm_up: 12s", "warm_up: 2s", 8, "viewers have less in hand"},
		{"control: 8s", "control: 1s", 9, "to compare with"},
		{"fault: kill\n    on: leader", "fault: explode\n    on: leader", 12, "want one of [kill hang silence stop slow fill]"},
		{"    on: leader\n", "", 11, "want a region's name"},
		{"    for: 20s\n", "", 11, "say how long it lasts"},
		{"for: 20s", "for: 20s\n    direction: in", 15, "only silence has a direction"},
		{"process: encoder", "process: encoder, for: 2s", 15, "brought back by the platform"},
		{"at: 5s, fault: kill", "at: 5s, fault: silence", 15, "can be killed, hung or slowed"},
		{"for: 20s", "for: 20s\n    clock: 90s", 15, "nothing sets the clocks of leader right"},
		{"for: 20s", "for: 20s\n    clock: 90ms", 15, "want whole seconds"},
		{"process: encoder", "process: encoder, upgrade: true", 15, "only a region that was killed or stopped"},
		{"process: encoder", "process: encoder, delay: 1s", 15, "say how slow something is, not how to kill"},
		{"at: 5s, fault: kill", "at: 5s, for: 1s, fault: slow", 15, "for which share of every second"},
		{"at: 5s, fault: kill", "at: 5s, for: 1s, share: 1, fault: slow", 15, "up to 0.98"},
		{"at: 5s, fault: kill, on: eu, process: encoder", "at: 5s, for: 1s, fault: slow, on: eu", 15, "by delay, loss or rate"},
		{"at: 5s, fault: kill, on: eu, process: encoder", "at: 5s, for: 1s, fault: slow, on: eu, loss: 2", 15, "want 0 to 1"},
		{"at: 0s", "at: 9s", 15, "before the step above it"},
		{"  creators: [1]\n", "", 19, "nobody creates anything"},
		{"stalls: 0", "stalls: -1", 18, "want 0 or more"},
		{"watch: 10s", "watch: 9h", 16, "want at most 3h"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		require.NotEqual(t, good, text, c.old)
		_, err := Parse("my.yaml", []byte(text))
		var e *Error
		require.True(t, errors.As(err, &e), "%s: %v", c.new, err)
		require.Equal(t, "my.yaml", e.File)
		found := false
		for _, p := range e.Problems {
			found = found || p.Line == c.line && strings.Contains(p.Change, c.want)
		}
		require.True(t, found, "%s: want %d: %s, have\n%v", c.new, c.line, c.want, err)
	}
	for text, want := range map[string]string{
		"":                                  "it is empty",
		good + "---\n" + good:               "more than one document",
		strings.Repeat("# x\n", 20<<10):     "larger than 64 KiB",
		strings.Split(good, "steps:")[0]:    "can't fail",
		strings.Replace(good, ":", "", 1):   "",
		strings.Replace(good, "[3", "[", 1): "",
	} {
		_, err := Parse("f", []byte(text))
		var e *Error
		require.True(t, errors.As(err, &e), "%.40s: %v", text, err)
		require.ErrorContains(t, err, want)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	text := strings.NewReplacer("a-drill", "A", "buffer: 10s", "buffer: 1s", "fault: kill", "fault: x").Replace(good)
	_, err := Parse("f", []byte(text))
	var e *Error
	require.True(t, errors.As(err, &e))
	require.GreaterOrEqual(t, len(e.Problems), 4, "%v", err)
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.yaml")
	require.NoError(t, os.WriteFile(file, []byte(good), 0o600))
	s, err := Read(file)
	require.NoError(t, err)
	require.Equal(t, "a-drill", s.Name)
	_, err = Read(file + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestBuiltIn(t *testing.T) {
	all, err := BuiltIn()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 9)
	require.Empty(t, all[0].Steps, "the first is the control run")
	var length time.Duration
	for _, s := range all {
		if s.Core {
			length += s.Length()
		}
		require.NotNil(t, s.Objectives.Lost, s.Name)
		if s.Name != "power-loss" {
			require.NotNil(t, s.Objectives.Stalls, s.Name)
		}
	}
	require.LessOrEqual(t, length, 8*time.Minute, "with recoveries the core must fit into ten minutes")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("steps: [{at: 1s}]\nobjectives: {}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse("f", b)
		var e *Error
		if err != nil && (!errors.As(err, &e) || len(e.Problems) == 0) {
			t.Fatalf("untyped: %v", err)
		}
		if err == nil && s.Length() > maxLength {
			t.Fatal("too long")
		}
	})
}

// TestRandom: the same seed is the same scenario, it can be written and read, and
// no two regions are lost at a time.
func TestRandom(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		s, err := Random(seed, 10)
		require.NoError(t, err)
		again, err := Random(seed, 10)
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.Greater(t, len(s.Steps), 5)
		require.LessOrEqual(t, s.LastEnd(), 10*time.Minute)
		b, err := yaml.Marshal(s)
		require.NoError(t, err)
		read, err := Parse("random", b)
		require.NoError(t, err, "%s", b)
		require.Equal(t, s, read)
		var lost time.Duration
		busy := map[string]time.Duration{}
		for _, x := range s.Steps {
			require.GreaterOrEqual(t, x.At.Std(), busy[x.On], "%d: %s", seed, x)
			busy[x.On] = x.End()
			if x.Process == "" {
				require.GreaterOrEqual(t, x.At.Std(), lost, "%d: %s", seed, x)
				lost = x.End()
			}
			seen[string(x.Fault)+" "+x.Process] = true
		}
	}
	require.Len(t, seen, 6+3*9, "every fault comes up")
	for _, minutes := range []int{0, 121} {
		_, err := Random(1, minutes)
		require.Error(t, err)
	}
}
