package jobs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/internal/catalog"
)

// Metrics of dispatcher, workers and janitor. A nil *Metrics measures nothing.
type Metrics struct {
	tasks      *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	dispatched *prometheus.CounterVec
	swept      *prometheus.CounterVec
	waiting    *prometheus.GaugeVec
	oldest     *prometheus.GaugeVec
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		tasks:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_jobs_tasks_total", Help: "Attempts of tasks by how they ended."}, []string{"kind", "class", "outcome"}),
		seconds:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_jobs_task_duration_seconds", Help: "How long attempts took.", Buckets: prometheus.ExponentialBuckets(0.1, 2, 12)}, []string{"kind"}),
		dispatched: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_jobs_dispatched_total", Help: "Messages sent for tasks."}, []string{"class"}),
		swept:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_jobs_swept_total", Help: "Rows the janitor cleared, by what they were."}, []string{"what"}),
	}
	m.waiting = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_jobs_waiting_things", Help: "How many assets, tasks and rows are in a state that must end."}, []string{"what"})
	m.oldest = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_jobs_oldest_seconds", Help: "How long the oldest of them has been in it."}, []string{"what"})
	reg.MustRegister(m.tasks, m.seconds, m.dispatched, m.swept, m.waiting, m.oldest)
	return m
}

func (m *Metrics) done(t catalog.Task, outcome string, took time.Duration) {
	if m == nil {
		return
	}
	m.tasks.WithLabelValues(string(t.Kind), string(t.Class), outcome).Inc()
	m.seconds.WithLabelValues(string(t.Kind)).Observe(took.Seconds())
}

func (m *Metrics) dispatch(c catalog.Class) {
	if m != nil {
		m.dispatched.WithLabelValues(string(c)).Inc()
	}
}

// waits replaces what was known of things that wait.
func (m *Metrics) waits(list []catalog.WaitingFor) {
	if m == nil {
		return
	}
	m.waiting.Reset()
	m.oldest.Reset()
	for _, w := range list {
		m.waiting.WithLabelValues(w.What).Set(float64(w.N))
		m.oldest.WithLabelValues(w.What).Set(w.Oldest.Seconds())
	}
}

func (m *Metrics) sweep(what string, n int) {
	if m != nil && n > 0 {
		m.swept.WithLabelValues(what).Add(float64(n))
	}
}
