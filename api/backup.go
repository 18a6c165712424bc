package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/sleep"
)

// archiveEvery is how often PostgreSQL is asked how its log is archived.
const archiveEvery = 30 * time.Second

// archive tells operators how backups of PostgreSQL are going.
type archive struct {
	enabled, failing, last prometheus.Gauge
}

func newArchive(reg prometheus.Registerer) *archive {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_postgres_archive_" + name, Help: help})
	}
	a := &archive{
		enabled: gauge("enabled", "1 if PostgreSQL's log is archived to a repository of backups."),
		failing: gauge("failing", "1 if the last attempt to archive a piece of PostgreSQL's log failed."),
		last:    gauge("last_timestamp_seconds", "When a piece of PostgreSQL's log was archived last, 0 if none was."),
	}
	reg.MustRegister(a.enabled, a.failing, a.last)
	return a
}

// watch asks the leader until ctx ends. While there is none, what was known stays.
func (a *archive) watch(ctx context.Context, c *catalog.Catalog) {
	for {
		if s, err := c.Archiving(ctx); err == nil {
			a.enabled.Set(one(s.Enabled))
			a.failing.Set(one(s.Enabled && s.Failing))
			a.last.Set(0)
			if !s.Archived.IsZero() {
				a.last.Set(float64(s.Archived.Unix()))
			}
		}
		if sleep.For(ctx, archiveEvery) != nil {
			return
		}
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
