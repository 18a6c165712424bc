package fleet

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/internal/hls"
)

var t0 = time.Unix(1_700_000_000, 0)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

func TestBufferPlaysAndStalls(t *testing.T) {
	b := NewBuffer(2, t0)
	require.Nil(t, b.Append(0, 2, at(1)), "audio is missing")
	require.False(t, b.Started())
	require.Nil(t, b.Append(1, 2, at(2)))
	require.True(t, b.Started())
	b.Advance(at(3))
	require.InDelta(t, 1, b.Position(), 1e-9)
	require.InDelta(t, 1, b.Ahead(), 1e-9)
	b.Advance(at(4.4))
	require.InDelta(t, 2, b.Position(), 1e-9)
	require.False(t, b.Stalled(at(4.4)), "empty since 0.4 s only")
	require.True(t, b.Stalled(at(4.6)))
	// Video alone doesn't end it.
	require.Nil(t, b.Append(0, 4, at(5)))
	s := b.Append(1, 4, at(6))
	require.Equal(t, &Stall{At: at(4), For: 2 * time.Second, Had: 2}, s)
	require.False(t, b.Stalled(at(6)))
	b.Advance(at(7))
	require.InDelta(t, 3, b.Position(), 1e-9)
}

func TestAStallKnowsWhatWasInHand(t *testing.T) {
	b := NewBuffer(1, t0)
	b.Append(0, 4, t0)
	b.Append(0, 12, at(1))
	require.InDelta(t, 11, b.Append(0, 14, at(14)).Had, 1e-9)
	require.InDelta(t, 2, b.Append(0, 16, at(18)).Had, 1e-9, "since the last stall")
}

func TestAShortPauseIsNoStall(t *testing.T) {
	b := NewBuffer(1, t0)
	b.Append(0, 2, t0)
	b.Advance(at(2.2))
	require.Nil(t, b.Append(0, 4, at(2.49)))
	b.Advance(at(5))
	require.Equal(t, time.Duration(0.51*float64(time.Second)), b.Append(0, 6, at(5)).For.Round(10*time.Millisecond))
}

func TestTheEndIsNoStall(t *testing.T) {
	b := NewBuffer(1, t0)
	b.Append(0, 2, t0)
	b.SetDuration(2)
	b.Advance(at(10))
	require.True(t, b.Done())
	require.Nil(t, b.Finish(at(20)))
	b = NewBuffer(1, t0)
	b.Append(0, 2, t0)
	require.Equal(t, 8*time.Second, b.Finish(at(10)).For, "a stall that never ended counts")
}

// TestBufferKeepsTime: what was played and what was stood still is the time that
// has passed since the first picture, whatever arrives when.
func TestBufferKeepsTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now, end, stood := NewBuffer(1, t0), 0.0, 0.0, 0.0
		b.StartForTest()
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now += rapid.Float64Range(0, 3).Draw(t, "passes")
			if rapid.Bool().Draw(t, "arrives") {
				end += rapid.Float64Range(0.2, 3).Draw(t, "length")
				empty := b.empty
				b.Advance(at(now))
				if empty.IsZero() {
					empty = b.empty
				}
				b.Append(0, end, at(now))
				if !empty.IsZero() {
					stood += at(now).Sub(empty).Seconds()
				}
			} else {
				b.Advance(at(now))
			}
			if b.Position() > end+1e-6 {
				t.Fatalf("plays at %v what ends at %v", b.Position(), end)
			}
		}
		if !b.empty.IsZero() {
			stood += at(now).Sub(b.empty).Seconds()
		}
		if math.Abs(b.Position()+stood-now) > 1e-3 {
			t.Fatalf("played %v, stood %v, passed %v", b.Position(), stood, now)
		}
	})
}

// StartForTest begins with an empty buffer.
func (b *Buffer) StartForTest() { b.started, b.empty = true, b.at }

func TestEstimator(t *testing.T) {
	var e Estimator
	rates := []int64{300_000, 800_000, 2_000_000}
	require.Zero(t, e.Rung(rates, 0), "500 kbit/s until something is known")
	for range 10 {
		e.Add(500_000, time.Second) // 4 Mbit/s
	}
	require.InDelta(t, 4e6, e.Rate(), 1)
	require.Equal(t, 2, e.Rung(rates, 0))
	// The fast average follows at once, and the lower counts.
	e.Add(62_500, 2*time.Second) // 250 kbit/s
	require.Less(t, e.Rate(), 2.9e6)
	require.Equal(t, 2, e.Rung(rates, 2), "stays with little room")
	for range 5 {
		e.Add(62_500, 2*time.Second)
	}
	require.Equal(t, 0, e.Rung(rates, 2))
	// More room is wanted to go up than to stay.
	e = Estimator{}
	e.Add(2_500_000/8, time.Second)
	require.Equal(t, 1, e.Rung(rates, 1))
	require.Equal(t, 2, e.Rung(rates, 2))
	// What comes from a cache in no time isn't an infinite line.
	e = Estimator{}
	e.Add(100_000, 0)
	require.InDelta(t, 16e6, e.Rate(), 1)
}

func master() hls.MasterInfo {
	m := hls.MasterInfo{InitialPathway: "eu-1"}
	for _, p := range []string{"eu-1", "eu-2", "us-1"} {
		m.Audio = append(m.Audio, hls.AudioRendition{Group: "aud-" + p, URI: "http://" + p + ":82/a"})
		m.Variants = append(m.Variants, hls.Variant{Pathway: p, AudioGroup: "aud-" + p, Bandwidth: 1, URI: "http://" + p + ":82/v"})
	}
	return m
}

func TestSteeringAndPenalties(t *testing.T) {
	p := newPathways(master())
	require.Equal(t, "eu-1", p.current)
	m := Manifest{Priority: []string{"us-1", "no-such", "eu-1", "eu-2"}}
	require.True(t, p.apply(m, t0))
	require.Equal(t, "us-1", p.current)
	require.False(t, p.apply(m, t0), "nothing new")
	require.False(t, p.apply(Manifest{Priority: []string{"none"}}, t0), "names nothing that is there")
	require.Equal(t, "us-1", p.current)

	require.True(t, p.fail(t0))
	require.Equal(t, "eu-1", p.current)
	require.False(t, p.apply(m, at(9)), "still penalised")
	require.True(t, p.apply(m, at(10)))
	require.Equal(t, "us-1", p.current)
	// Again and again it is avoided for longer, until it serves.
	require.True(t, p.fail(at(10)))
	require.False(t, p.apply(m, at(29)))
	require.True(t, p.apply(m, at(30)))
	p.served()
	require.True(t, p.fail(at(30)))
	require.True(t, p.apply(m, at(40)))

	p.fail(at(50))
	p.fail(at(50))
	require.False(t, p.fail(at(50)), "all have failed")
	last := p.current
	p.forgive()
	require.NotEqual(t, last, p.current)
	require.True(t, p.fail(at(51)))
}

func TestClones(t *testing.T) {
	p := newPathways(master())
	m, err := ParseManifest([]byte(`{"VERSION":1,"TTL":5,"RELOAD-URI":"/s","PATHWAY-PRIORITY":["ap-1","eu-1"],
		"PATHWAY-CLONES":[{"BASE-ID":"eu-1","ID":"ap-1","URI-REPLACEMENT":{"HOST":"ap","PARAMS":{"x":"1"}}},{"BASE-ID":"none","ID":"y"}]}`))
	require.NoError(t, err)
	require.Equal(t, 5*time.Second, m.TTL)
	require.True(t, p.apply(m, t0))
	require.Equal(t, "ap-1", p.current)
	v := p.variants["ap-1"][0]
	require.Equal(t, "http://ap:82/v?x=1", v.URI)
	require.Equal(t, "http://ap:82/a?x=1", p.audio[v.AudioGroup][0].URI)
	require.Equal(t, "http://eu-1:82/a", p.audio["aud-eu-1"][0].URI)
	require.False(t, p.apply(m, t0))
	require.Len(t, p.variants["ap-1"], 1, "cloned once")
}

func TestReload(t *testing.T) {
	require.Equal(t, "http://r/s?a=b&_HLS_pathway=%22eu-1%22&_HLS_throughput=1234567", reload("http://r/s?a=b", "eu-1", 1234567.8))
	require.Equal(t, "http://r/s?_HLS_pathway=%22eu-1%22&_HLS_throughput=0", reload("http://r/s", "eu-1", 0))
}

func TestManifests(t *testing.T) {
	s := hls.Steering{TTL: 2, ReloadURI: "http://r/steer?a=x&p=a,b", Priority: []string{"a", "b"}}
	uri, err := s.DataURI()
	require.NoError(t, err)
	m, err := inlineManifest(uri)
	require.NoError(t, err)
	require.Equal(t, Manifest{TTL: 2 * time.Second, Reload: s.ReloadURI, Priority: s.Priority}, m)
	for _, bad := range []string{"", "{}", `{"VERSION":2,"PATHWAY-PRIORITY":["a"]}`, `{"VERSION":1,"PATHWAY-PRIORITY":[]}`,
		`{"VERSION":1,"PATHWAY-PRIORITY":["a"],"PATHWAY-CLONES":[{"ID":"x"}]}`} {
		_, err := ParseManifest([]byte(bad))
		require.Error(t, err, bad)
	}
	m, err = ParseManifest([]byte(`{"VERSION":1,"TTL":1e300,"PATHWAY-PRIORITY":["a"]}`))
	require.NoError(t, err)
	require.Equal(t, maxTTL, m.TTL)
	_, err = inlineManifest("data:application/json")
	require.Error(t, err)
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"VERSION":1,"TTL":2,"RELOAD-URI":"/s","PATHWAY-PRIORITY":["us-1","eu-1"],"PATHWAY-CLONES":[{"BASE-ID":"eu-1","ID":"c","URI-REPLACEMENT":{"HOST":"h"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		if m.TTL < time.Second || m.TTL > maxTTL {
			t.Fatal(m.TTL)
		}
		p := newPathways(master())
		p.apply(m, t0)
		if len(p.variants[p.current]) == 0 {
			t.Fatal("a pathway without variants")
		}
	})
}

func TestRing(t *testing.T) {
	r := newRing([]string{"http://a:1", "http://b:1", "http://c:1"})
	require.Equal(t, []string{"http://b:1/x", "http://c:1/x", "http://a:1/x"}, r.candidates("http://b:1/x", t0))
	require.Equal(t, []string{"http://b:10/x"}, r.candidates("http://b:10/x", t0), "no router of ours")
	r.fail("http://b:1/x", t0)
	r.fail("http://c:1/x", at(1))
	require.Equal(t, []string{"http://a:1/x", "http://b:1/x", "http://c:1/x"}, r.candidates("http://b:1/x", at(2)))
	r.answered("http://c:1/y")
	require.Equal(t, []string{"http://c:1/x", "http://a:1/x", "http://b:1/x"}, r.candidates("http://b:1/x", at(2)))
	require.Equal(t, "http://b:1/x", r.candidates("http://b:1/x", at(10))[0])
}
