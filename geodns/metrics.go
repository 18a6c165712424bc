package geodns

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/internal/geo"
)

// Ways a decision is asked for.
const (
	viaDNS      = "dns"
	viaRedirect = "redirect"
	viaSteer    = "steer"
	viaPage     = "page"
)

type metrics struct {
	decisions *prometheus.CounterVec
	alarms    *prometheus.CounterVec
	dns       *prometheus.CounterVec
	http      *prometheus.CounterVec
	unread    prometheus.Counter
	felt      prometheus.Counter
	steerTTL  prometheus.Gauge
	routing   *prometheus.CounterVec
	geo, asn  databaseMetrics
}

// databaseMetrics are those of one kind of database.
type databaseMetrics struct {
	reads *prometheus.CounterVec
	built prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_decisions_total",
			Help: "Decisions by way of asking, region chosen and reason."}, []string{"via", "region", "reason"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_alarms_total",
			Help: "Decisions for which no allowed region worked."}, []string{"via"}),
		dns: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_dns_answers_total",
			Help: "DNS answers by transport and response code; dropped packets have code DROP."}, []string{"transport", "rcode"}),
		http: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_http_answers_total",
			Help: "HTTP answers by route and status."}, []string{"route", "status"}),
		unread: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_geodns_records_unread_total",
			Help: "Requests answered without the playback record, because no store gave it in time."}),
		felt: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_geodns_plain_detours_total",
			Help: "Requests of players without steering sent past an edge that didn't answer at the moment."}),
		steerTTL: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_geodns_steer_ttl_seconds",
			Help: "TTL given to players in the last steering answer."}),
		routing: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_routing_entries_total",
			Help: "Routing entries handed to this router by operators, by result: written or refused."}, []string{"result"}),
		geo: databaseMetrics{
			reads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_geo_database_reads_total",
				Help: "Geo databases read, by result: loaded or refused."}, []string{"result"}),
			built: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_geodns_geo_database_built_seconds",
				Help: "Unix time the geo database in use was built; 0 without one."}),
		},
		asn: databaseMetrics{
			reads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_geodns_asn_database_reads_total",
				Help: "ASN databases read, by result: loaded or refused."}, []string{"result"}),
			built: prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_geodns_asn_database_built_seconds",
				Help: "Unix time the ASN database in use was built; 0 without one."}),
		},
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.decisions, m.alarms, m.dns, m.http, m.unread, m.felt, m.steerTTL, m.routing, m.geo.reads, m.geo.built, m.asn.reads, m.asn.built} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	for _, result := range []string{"loaded", "refused"} { // routers without one too are seen to have refused none
		m.asn.reads.WithLabelValues(result)
	}
	return m, nil
}

// decision returns the counters of a decision, each nil when there is nothing to count.
func (m *metrics) decision(via string, d *geo.Decision) (decided, alarm prometheus.Counter) {
	if len(d.Choices) > 0 {
		decided = m.decisions.WithLabelValues(via, d.Choices[0].Region.Name, string(d.Choices[0].Class))
	}
	if d.Alarm {
		alarm = m.alarms.WithLabelValues(via)
	}
	return decided, alarm
}
