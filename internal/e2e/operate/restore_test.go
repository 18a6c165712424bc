package operate

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/testenv"
)

// It ends the platform, so it is the last: files are tested in the order of their names.
func TestZEverythingIsLostAndRestored(t *testing.T) {
	o := newOperator(t, "backup.md")
	archive := testenv.MinIO(t)
	o.env = []string{"MERIDIAN_ARCHIVE_ENDPOINT=" + archive.Endpoint, "MERIDIAN_ARCHIVE_ACCESS_KEY=" + archive.AccessKey, "MERIDIAN_ARCHIVE_SECRET_KEY=" + archive.SecretKey}
	// Run by TestMain.
	require.Equal(t, "bin/meridian up --backup-config /etc/meridian/repository.conf", o.document[0])
	o.document = o.document[1:]

	deleted, kept := o.upload(50), o.upload(75)
	o.runs("cp -a /var/lib/meridian/secrets")
	info := "pgbackrest --config=" + filepath.Join(o.State(), "eu", "postgres", "pgbackrest.conf") + " --stanza=meridian info"
	eventually(t, 3*time.Minute, func() error {
		out, err := o.shell(info)
		if err == nil && !strings.Contains(out, "full backup") {
			err = errors.New(out)
		}
		return err
	})
	extras := func(asset string) error {
		for key := range o.files(asset) {
			if strings.HasSuffix(key, "/extra/index.json") {
				return nil
			}
		}
		return errors.New("no extras yet")
	}
	for _, asset := range []string{deleted, kept} {
		eventually(t, 2*time.Minute, func() error { return extras(asset) })
	}
	took := time.Now()
	o.runs("bin/meridian archive save")
	o.runs("bin/meridian archive trim")
	o.runs("pgbackrest")
	// Base backups end in whole seconds, and a restore wants one before its time.
	time.Sleep(2 * time.Second)
	var at time.Time
	require.NoError(t, o.leader().QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&at))
	o.at(at)
	files := map[string]map[string]string{deleted: o.files(deleted), kept: o.files(kept)}

	// The mistake, and what came after it.
	require.NoError(t, o.client().DeleteAsset(t.Context(), deleted))
	later := o.upload(25)
	out, err := o.shell(o.Bin + " archive save --config " + o.config())
	require.NoError(t, err, out)
	conn := o.leader()
	var segment string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").Scan(&segment))
	_, err = conn.Exec(t.Context(), "SELECT pg_switch_wal()")
	require.NoError(t, err)
	eventually(t, 2*time.Minute, func() error {
		var last string
		err := conn.QueryRow(t.Context(), "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver").Scan(&last)
		if err == nil && last < segment {
			err = fmt.Errorf("archived to %s, want %s", last, segment)
		}
		return err
	})

	cat, err := catalog.Open(o.leaderDSN(), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	archiving, err := cat.Archiving(t.Context())
	cat.Close()
	require.NoError(t, err)
	require.True(t, archiving.Enabled && !archiving.Failing)
	require.WithinDuration(t, time.Now(), archiving.Archived, 2*time.Minute)

	// All regions are lost.
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, o.End())
	testenv.Figure(t, "backup and archive of three small assets", "%.1f s", time.Since(took).Seconds())
	began := time.Now()
	o.runs("mv /var/lib/meridian")
	require.NoError(t, os.RemoveAll(o.State()+"-lost"))
	o.runs("cp -a /srv/meridian-secrets")
	o.up("bin/meridian up --stores-only")
	restored := o.runs("bin/meridian archive restore")
	require.Contains(t, restored, "came after what the database knows")
	require.NoError(t, o.End())
	o.up("bin/meridian up --backup-config")
	testenv.Figure(t, "everything lost: platform restored", "%.1f s", time.Since(began).Seconds())

	o.plays(deleted, 50)
	o.plays(kept, 75)
	for asset, want := range files {
		require.Equal(t, want, o.files(asset), "what is stored of %s", asset)
	}
	var refused *client.Problem
	_, err = o.client().Asset(t.Context(), later)
	require.ErrorAs(t, err, &refused, "an asset of after the time")
	o.reconciles(o.does("bin/meridian reconcile --read"))

	// It goes on: numbers are given again, backups and archives follow.
	next := o.upload(30)
	o.plays(next, 30)
	out, err = o.shell(o.Bin + " archive save --config " + o.config())
	require.Error(t, err)
	require.Contains(t, out, "archive to a new bucket")
	o.env = append(slices.Clone(o.env), "MERIDIAN_ARCHIVE_BUCKET=meridian-archive-2")
	o.runs("bin/meridian archive save")
	require.Empty(t, o.document, "commands of the document that were not run")

	// The end of another document: new passwords, with everything at rest.
	o.reads("keys.md")
	o.document = o.document[len(o.document)-2:]
	before, err := o.Secret("postgres.secret")
	require.NoError(t, err)
	require.NoError(t, o.End())
	o.runs("rm /var/lib/meridian/secrets/postgres.secret")
	o.up("bin/meridian up --backup-config")
	after, err := o.Secret("postgres.secret")
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	o.plays(kept, 75)
	o.plays(o.upload(25), 25)
	require.NoError(t, o.End())
}
