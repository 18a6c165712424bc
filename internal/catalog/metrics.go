package catalog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the publisher. A nil *Metrics measures nothing.
type Metrics struct {
	seconds  prometheus.Histogram
	failures prometheus.Counter
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "meridian_catalog_publish_duration_seconds",
			Help: "Time from a row's commit to its visibility.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_catalog_publish_failures_total", Help: "Attempts to publish a row that failed."}),
	}
	reg.MustRegister(m.seconds, m.failures)
	return m
}

func (m *Metrics) published(took time.Duration) {
	if m != nil {
		m.seconds.Observe(took.Seconds())
	}
}

func (m *Metrics) failed() {
	if m != nil {
		m.failures.Inc()
	}
}
