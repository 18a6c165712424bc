package platform

import (
	"time"

	"github.com/meridian-video/meridian/internal/region"
)

// StoreSettings are what `up` runs a region's stores with, for deployments that
// run the same stores elsewhere: addresses, paths and passwords in them are
// placeholders, timings and replication are meant to be kept.
type StoreSettings struct {
	// Patroni is the configuration of the region's PostgreSQL member.
	Patroni map[string]any
	// EtcdHeartbeat and EtcdElection are etcd's, from the round-trip times.
	EtcdHeartbeat, EtcdElection time.Duration
	// Database and its Owner are what services connect to and as.
	Database, Owner string
	// S3AccessKey is the name that goes with the store's secret key.
	S3AccessKey string
}

// SettingsFor returns the settings of a region of t.
func SettingsFor(t *region.Table, r region.Region) StoreSettings {
	p := &plan{table: t, secrets: &secrets{}}
	wait := timingFor(t)
	return StoreSettings{
		Patroni:       p.patroniConfig(r, "", "", ""),
		EtcdHeartbeat: wait.etcdHeartbeat, EtcdElection: wait.etcdElection,
		Database: dbName, Owner: dbUser, S3AccessKey: s3AccessKey,
	}
}
