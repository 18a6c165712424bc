package repair

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of a region's repair. A nil *Metrics measures nothing.
type Metrics struct {
	objects, bytes, alarms, deleted *prometheus.CounterVec
	failures, repeated              prometheus.Counter
	behind, unplaced, last, seconds prometheus.Gauge
	skipped                         *prometheus.GaugeVec
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_repair_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_repair_" + name, Help: help})
	}
	m := &Metrics{
		objects:  counter("copied_objects_total", "Objects copied into this region, by where from.", "from"),
		bytes:    counter("copied_bytes_total", "Bytes copied into this region, by where from.", "from"),
		alarms:   counter("damaged_objects_total", "Objects that are not what they should be, by why (damaged, no_hash, conflict, unknown) and where: each is an alarm.", "reason", "at"),
		deleted:  counter("deleted_objects_total", "Objects deleted from this region, by why.", "reason"),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_repair_failed_copies_total", Help: "Copies that failed and are tried again."}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_repair_repeated_cleanups_total", Help: "Clean-ups asked for again because their objects came back."}),
		behind:   gauge("behind_objects", "Objects placement asks for here that this region lacks, as far as the running or last pass knows."),
		unplaced: gauge("unplaced_objects", "Objects this region lacks of which it isn't known whether they belong here."),
		last:     gauge("last_pass_timestamp_seconds", "When the last full pass ended well."),
		seconds:  gauge("last_pass_seconds", "How long the last full pass took."),
		skipped:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_repair_skipped_region", Help: "1 for regions the last pass could not compare with."}, []string{"at"}),
	}
	reg.MustRegister(m.objects, m.bytes, m.alarms, m.deleted, m.failures, m.repeated, m.behind, m.unplaced, m.last, m.seconds, m.skipped)
	return m
}

func (m *Metrics) copied(from string, bytes int64) {
	if m != nil {
		m.objects.WithLabelValues(from).Inc()
		m.bytes.WithLabelValues(from).Add(float64(bytes))
	}
}

func (m *Metrics) alarm(reason, at string) {
	if m != nil {
		m.alarms.WithLabelValues(reason, at).Inc()
	}
}

func (m *Metrics) failed() {
	if m != nil {
		m.failures.Inc()
	}
}

func (m *Metrics) lacks(n int64) {
	if m != nil {
		m.behind.Set(float64(n))
	}
}

func (m *Metrics) removed(reason string) {
	if m != nil {
		m.deleted.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) repeat() {
	if m != nil {
		m.repeated.Inc()
	}
}

func (m *Metrics) passed(s Status, regions []string, took time.Duration) {
	if m == nil {
		return
	}
	m.behind.Set(float64(s.Behind))
	m.unplaced.Set(float64(s.Unplaced))
	m.seconds.Set(took.Seconds())
	if !s.LastPass.IsZero() {
		m.last.Set(float64(s.LastPass.Unix()))
	}
	for _, name := range regions {
		v := 0.0
		if s.skipped(name) {
			v = 1
		}
		m.skipped.WithLabelValues(name).Set(v)
	}
}
