package upload

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	open    prometheus.Gauge
	refused prometheus.Counter
	parts   prometheus.Counter
	bytes   prometheus.Counter
	stored  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_api_uploads_open", Help: "Requests that are bringing bytes of uploads."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_api_uploads_refused_total", Help: "Uploads refused because too many were open."}),
		parts:   prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_api_upload_parts_total", Help: "Parts of sources stored."}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_api_upload_bytes_total", Help: "Bytes of sources stored."}),
		stored: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "meridian_api_upload_part_seconds", Help: "Time to store a part in all its regions and move the offset.",
			Buckets: prometheus.ExponentialBuckets(0.02, 2, 11)}),
	}
	reg.MustRegister(m.open, m.refused, m.parts, m.bytes, m.stored)
	return m
}
