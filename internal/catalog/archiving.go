package catalog

import (
	"context"
	"time"
)

// Archiving is what PostgreSQL's leader says of the log that backups are made of.
type Archiving struct {
	// Enabled: there is a repository to archive to.
	Enabled bool
	// Archived is when a piece of the log was archived last, zero if none was.
	Archived time.Time
	// Failing: the last attempt failed, and is tried again.
	Failing bool
}

// Archiving asks the leader.
func (c *Catalog) Archiving(ctx context.Context) (Archiving, error) {
	var (
		a        Archiving
		archived *time.Time
	)
	err := c.onLeader(ctx, func(ctx context.Context) error {
		// sqlc doesn't know PostgreSQL's statistics.
		return c.leader.pool().QueryRow(ctx, `SELECT current_setting('archive_mode') <> 'off', last_archived_time,
			coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) FROM pg_stat_archiver`).
			Scan(&a.Enabled, &archived, &a.Failing)
	})
	if archived != nil {
		a.Archived = *archived
	}
	return a, wrap("ask how the log is archived", err)
}
