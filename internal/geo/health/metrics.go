package health

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	probes    *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	up        *prometheus.GaugeVec
	changes   *prometheus.CounterVec
	reports   *prometheus.CounterVec
	witnesses prometheus.Gauge
	shed      *prometheus.GaugeVec
	doubt     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_health_probes_total",
			Help: "Probes by target and outcome."}, []string{"target", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_health_probe_seconds",
			Help: "Time of good probes, body included.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 11)}, []string{"region"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_health_target_up_ratio",
			Help: "1 when the target is believed to work, else 0."}, []string{"target"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_health_changes_total",
			Help: "How often a target went up or down."}, []string{"target", "to"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_health_reports_total",
			Help: "Reports between routers: sent, unsent, heard, refused."}, []string{"what"}),
		witnesses: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_health_witnesses_count",
			Help: "Other routers heard within the life of a report."}),
		shed: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_health_shed_ratio",
			Help: "Share of its viewers a region turns away for load, failures or slowness."}, []string{"region"}),
		doubt: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_health_line_doubt_ratio",
			Help: "1 while all other regions are silent and this router's own line may be to blame, else 0."}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.probes, m.seconds, m.up, m.changes, m.reports, m.witnesses, m.shed, m.doubt} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) probe(t Target, o observation) {
	m.probes.WithLabelValues(t.Name, o.outcome.String()).Inc()
	if o.outcome == good {
		m.seconds.WithLabelValues(t.Region).Observe(o.took.Seconds())
	}
}

func (m *metrics) verdict(t Target, up bool) {
	v, to := 0.0, "down"
	if up {
		v, to = 1, "up"
	}
	m.up.WithLabelValues(t.Name).Set(v)
	m.changes.WithLabelValues(t.Name, to).Inc()
}
