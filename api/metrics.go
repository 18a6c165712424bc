package api

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.HistogramVec
	streams  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_api_request_duration_seconds", Help: "Requests by method, route and class of status.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2.5, 12)}, []string{"method", "route", "status"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_api_event_streams", Help: "Event streams open."}),
	}
	reg.MustRegister(m.requests, m.streams)
	return m
}
