package edgecache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

type metrics struct {
	requests *prometheus.CounterVec
	fast     *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	fills    *prometheus.CounterVec
	filled   *prometheus.CounterVec
	fillTime *prometheus.HistogramVec
	fillErrs *prometheus.CounterVec
	refused  *prometheus.CounterVec
	dropped  prometheus.Counter
	polls    prometheus.Counter
	ahead    prometheus.Counter
	aborted  prometheus.Counter
	open     prometheus.Gauge
	purges   *prometheus.CounterVec
	purged   prometheus.Gauge
	players  *players
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_edge_" + name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Requests by kind, status and how the cache answered.", "kind", "status", "cache"),
		fast:     counter("fast_requests_total", "Requests answered straight from the connection, among all, by kind and how the cache answered.", "kind", "cache"),
		bytes:    counter("response_bytes_total", "Body bytes sent, by how the cache answered.", "cache"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_edge_request_seconds", Help: "Time to answer, by how the cache answered.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"cache"}),
		fills:  counter("fills_total", "Objects brought into memory, by tier.", "tier"),
		filled: counter("fill_bytes_total", "Bytes brought into memory, by tier.", "tier"),
		fillTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_edge_fill_seconds", Help: "Time to bring an object into memory, by tier.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"tier"}),
		fillErrs: counter("fill_errors_total", "Objects that could not be brought into memory, by reason.", "reason"),
		refused:  counter("refused_total", "Requests not answered as asked, by reason.", "reason"),
		dropped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_edge_disk_dropped_total", Help: "Objects not written to disk because the writer was behind."}),
		polls:    prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_edge_record_polls_total", Help: "Looks for a track's next record."}),
		ahead:    prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_edge_prefetches_total", Help: "Segments fetched before anyone asked for them."}),
		aborted:  prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_edge_aborted_total", Help: "Responses that ended before their last byte."}),
		open:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_edge_requests_open", Help: "Requests being answered."}),
		purges:   counter("purges_total", "Purges obeyed, by what came of them: done, disk_failed, emptied.", "outcome"),
		purged:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_edge_purge_number", Help: "Number of the last purge obeyed."}),
	}
	m.players = newPlayers(reg)
	reg.MustRegister(m.requests, m.fast, m.bytes, m.seconds, m.fills, m.filled, m.fillTime, m.fillErrs, m.refused, m.dropped, m.polls, m.ahead, m.aborted, m.open, m.purges, m.purged)
	return m
}

// observeCache registers the cache's sizes.
func observeCache(reg prometheus.Registerer, component string, c *cache.Cache) {
	gauge := func(name, help string, f func(cache.Stats) int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meridian_" + component + "_" + name, Help: help},
			func() float64 { return float64(f(c.Stats())) }))
	}
	gauge("memory_bytes", "Bytes of objects in memory.", func(s cache.Stats) int64 { return s.Bytes })
	gauge("memory_objects", "Objects in memory.", func(s cache.Stats) int64 { return int64(s.Objects) })
	gauge("memory_capacity_bytes", "Bytes of objects memory may hold.", func(s cache.Stats) int64 { return s.Capacity })
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "meridian_" + component + "_memory_evictions_total",
		Help: "Objects evicted from memory."}, func() float64 { return float64(c.Stats().Evictions) }))
	gauge("memory_copies_bytes", "Bytes of bodies in memory a second time, as they are sent fastest.", func(s cache.Stats) int64 { return s.Copies })
	gauge("disk_bytes", "Bytes in the disk log.", func(s cache.Stats) int64 { return s.DiskBytes })
	gauge("disk_objects", "Objects in the disk log.", func(s cache.Stats) int64 { return int64(s.DiskObjects) })
	gauge("disk_capacity_bytes", "Bytes the disk log may hold.", func(s cache.Stats) int64 { return s.DiskCapacity })
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meridian_" + component + "_disk_failed", Help: "1 while the disk can't be used."},
		func() float64 {
			if c.DiskErr() != nil {
				return 1
			}
			return 0
		}))
	counter := func(name, help string, f func(cache.DiskState) int64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "meridian_" + component + "_" + name, Help: help},
			func() float64 { return float64(f(c.Disk())) }))
	}
	counter("disk_failures_total", "Times the disk failed.", func(s cache.DiskState) int64 { return s.Failures })
	counter("disk_recoveries_total", "Times a disk that had failed was used again.", func(s cache.DiskState) int64 { return s.Recoveries })
}

func (m *metrics) events() cache.Events {
	return cache.Events{
		Filled: func(tier cache.Tier, bytes int64, took time.Duration) {
			m.fills.WithLabelValues(string(tier)).Inc()
			m.filled.WithLabelValues(string(tier)).Add(float64(bytes))
			m.fillTime.WithLabelValues(string(tier)).Observe(took.Seconds())
		},
		Failed: func(_ cache.Tier, err error) {
			m.fillErrs.WithLabelValues(problemOf(err).Code).Inc()
		},
		DiskDropped: m.dropped.Inc,
	}
}
