package encoder

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/encoder/confine"
	"github.com/meridian-video/meridian/internal/catalog"
)

// Metrics of an encoder.
type Metrics struct {
	tasks   *prometheus.HistogramVec
	seconds prometheus.Counter
	work    prometheus.Counter
	bytes   prometheus.Counter
	stages  *prometheus.CounterVec
	memory  prometheus.Gauge
	speed   prometheus.Gauge
	layers  *prometheus.GaugeVec
}

// NewMetrics registers the encoder's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		tasks: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_encoder_task_seconds",
			Help: "Time tasks took.", Buckets: prometheus.ExponentialBuckets(0.25, 2, 11)}, []string{"kind", "result"}),
		seconds: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_encoder_video_seconds_total",
			Help: "Seconds of video encoded and committed, all rungs counted once."}),
		work: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_encoder_video_work_seconds_total",
			Help: "Time spent on committed video chunks."}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_encoder_stored_bytes_total",
			Help: "Bytes of objects stored."}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_encoder_stage_seconds_total",
			Help: "Time tasks spent in a stage: probe, index, complexity and remux of plan tasks; memory (waiting for room), start (until ffmpeg has encoded its first frames), encode, store (what is left to store then) and commit of video tasks."}, []string{"stage"}),
		memory: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_encoder_memory_held_bytes",
			Help: "Memory set aside for running children, by estimate."}),
		speed: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_encoder_pixels_per_second",
			Help: "Pixels this worker encodes in a second, as it learned from a test pattern and its tasks; runs are planned by it. 0 before."}),
		layers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_encoder_confined",
			Help: "1 where ffmpeg is confined in this way, 0 where this worker can't (the log says why): user, network, files, calls. None where confinement is switched off."}, []string{"layer"}),
	}
	reg.MustRegister(m.tasks, m.seconds, m.work, m.bytes, m.stages, m.memory, m.speed, m.layers)
	return m
}

func (m *Metrics) task(k catalog.Kind, took time.Duration, err error) {
	result := "done"
	if err != nil {
		result = "failed"
	}
	m.tasks.WithLabelValues(string(k), result).Observe(took.Seconds())
}

func (m *Metrics) encoded(seconds float64, took time.Duration) {
	m.seconds.Add(seconds)
	m.work.Add(took.Seconds())
}

func (m *Metrics) stage(name string, took time.Duration) {
	m.stages.WithLabelValues(name).Add(took.Seconds())
}

func (m *Metrics) stored(n int64) { m.bytes.Add(float64(n)) }

func (m *Metrics) confined(l confine.Layer, is bool) {
	v := 0.0
	if is {
		v = 1
	}
	m.layers.WithLabelValues(string(l)).Set(v)
}
