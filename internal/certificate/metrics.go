package certificate

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of a program's certificates. A nil one counts nothing.
type Metrics struct {
	expires, due *prometheus.GaugeVec
	orders       *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_certificate_expires_seconds",
			Help: "Unix time a certificate in use ends, by the name it is for; 0 while there is none."}, []string{"name"}),
		due: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "meridian_certificate_renewal_due_seconds",
			Help: "Unix time from which a shared certificate is due to be renewed, by the name it is for."}, []string{"name"}),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_certificate_orders_total",
			Help: "Certificates this router went to order, by result: issued, failed, or found where another router was faster."}, []string{"result"}),
	}
	if err := errors.Join(reg.Register(m.expires), reg.Register(m.due), reg.Register(m.orders)); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return m, nil
}

// Wanted notes that there are to be certificates for names.
func (m *Metrics) Wanted(names ...string) {
	if m != nil {
		for _, name := range names {
			m.expires.WithLabelValues(name).Add(0)
		}
	}
}

// Ordered counts an order.
func (m *Metrics) Ordered(result string) {
	if m != nil {
		m.orders.WithLabelValues(result).Inc()
	}
}

func (m *Metrics) inUse(name string, leaf *x509.Certificate) {
	if m != nil {
		m.expires.WithLabelValues(name).Set(float64(leaf.NotAfter.Unix()))
	}
}

func (m *Metrics) shared(name string, leaf *x509.Certificate) {
	m.inUse(name, leaf)
	if m != nil {
		m.due.WithLabelValues(name).Set(float64(Due(leaf).Unix()))
	}
}

// Due is when a certificate is to be renewed: when a third of its time is left.
func Due(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// nameOf is the name a certificate goes by in metrics.
func nameOf(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) > 0 {
		return leaf.DNSNames[0]
	}
	return leaf.Subject.CommonName
}
