package edgecache

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cmcd"
)

// told is what a player says with a request.
type told struct {
	report cmcd.Report
	// any: it says something at all; err is why it can't be read.
	any bool
	err error
}

var errTwice = errors.New("CMCD: more than one query argument")

// cutReport takes all CMCD arguments out of a raw query: what players say is for
// metrics only, and nothing about it makes a request a bad one.
func cutReport(rawQuery string) (rest string, t told) {
	rest = rawQuery
	for {
		before, value, after, found := cmcd.Cut(rest)
		if !found {
			return rest, t
		}
		switch {
		case t.any:
			t = told{any: true, err: errTwice}
		case value != "":
			t.any, t.err = true, t.report.ParseQuery(value)
		}
		if rest = before; before == "" {
			rest = after
		} else if after != "" {
			rest = before + "&" + after
		}
	}
}

// fieldOf are the header fields that reports come in, in net/http's spelling.
var fieldOf = [...]struct {
	name, lower string
	shard       cmcd.Shard
}{
	{"Cmcd-Object", "cmcd-object", cmcd.ObjectField}, {"Cmcd-Request", "cmcd-request", cmcd.RequestField},
	{"Cmcd-Status", "cmcd-status", cmcd.StatusField}, {"Cmcd-Session", "cmcd-session", cmcd.SessionField},
}

// fields reads the header fields, unless the query said it all.
func (t *told) fields(h http.Header) {
	if t.any {
		return
	}
	for _, f := range fieldOf {
		for _, line := range h[f.name] {
			t.field(f.shard, []byte(line))
		}
	}
}

func (t *told) field(from cmcd.Shard, line []byte) {
	t.any = true
	if t.err == nil {
		t.err = t.report.Parse(from, line)
	}
}

// players are metrics of what players say. Anybody can say anything, so labels
// are from fixed sets, and only requests that were answered count.
type players struct {
	requests   [cmcd.Objects]prometheus.Counter
	starved    prometheus.Counter
	startup    prometheus.Counter
	buffer     prometheus.Histogram
	throughput prometheus.Histogram
	bitrate    prometheus.Histogram
	syntax     prometheus.Counter
	value      prometheus.Counter
	size       prometheus.Counter
}

func newPlayers(reg prometheus.Registerer) *players {
	name := func(s string) string { return "meridian_edge_cmcd_" + s }
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name(n), Help: help})
	}
	histogram := func(n, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name(n), Help: help, Buckets: buckets})
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("requests_total"), Help: "Answered requests with which players said something of themselves (CMCD), by what they said they ask for."}, []string{"object"})
	malformed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("malformed_total"), Help: "Answered requests whose CMCD could not be read, by reason: syntax, value, size."}, []string{"reason"})
	p := &players{
		starved:    counter("starved_total", "Requests of players whose playback had stood still for want of data (CMCD bs)."),
		startup:    counter("startup_total", "Requests of players that waited for data to start, or to go on after seeking or standing still (CMCD su)."),
		buffer:     histogram("buffer_seconds", "What players had buffered when they asked for audio or video (CMCD bl).", 0, .5, 1, 2, 4, 6, 10, 15, 20, 30, 60, 120),
		throughput: histogram("throughput_bits_per_second", "Throughput that players measured (CMCD mtp).", 25e4, 5e5, 1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6, 128e6, 256e6, 1e9),
		bitrate:    histogram("bitrate_bits_per_second", "Encoded bitrate of the audio or video that players asked for (CMCD br).", 1e5, 25e4, 5e5, 1e6, 2e6, 3e6, 5e6, 8e6, 12e6, 20e6, 40e6),
		syntax:     malformed.WithLabelValues("syntax"), value: malformed.WithLabelValues("value"), size: malformed.WithLabelValues("size"),
	}
	for o := range cmcd.Objects {
		p.requests[o] = requests.WithLabelValues(o.String())
	}
	reg.MustRegister(requests, malformed, p.starved, p.startup, p.buffer, p.throughput, p.bitrate)
	return p
}

// observe counts what was told with a request that was answered.
func (p *players) observe(t *told) {
	switch {
	case !t.any:
		return
	case errors.Is(t.err, cmcd.ErrSize):
		p.size.Inc()
		return
	case errors.Is(t.err, cmcd.ErrValue):
		p.value.Inc()
		return
	case t.err != nil:
		p.syntax.Inc()
		return
	}
	r := &t.report
	p.requests[r.Object].Inc()
	if r.Starved {
		p.starved.Inc()
	}
	if r.Startup {
		p.startup.Inc()
	}
	said(p.throughput, r.Throughput, 1e3)
	switch r.Object {
	case cmcd.Unsaid, cmcd.Audio, cmcd.Video, cmcd.Muxed:
		// They mean the object asked for; hls.js repeats the last ones with playlists.
		said(p.buffer, r.Buffer, 1e-3)
		said(p.bitrate, r.Bitrate, 1e3)
	}
}

func said(h prometheus.Histogram, a cmcd.Amount, unit float64) {
	if a.Said {
		h.Observe(float64(a.N) * unit)
	}
}
