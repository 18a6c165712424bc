package operate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
)

// operator does what the document says.
type operator struct {
	*stack.Stack
	t        *testing.T
	document []string // its commands that weren't run yet
	replace  *strings.Replacer
	env      []string
}

var documented = regexp.MustCompile(`(?m)^(?:bin/meridian|pgbackrest|cp|mv) .*$`)

// does finds the document's next command, which must be the one that begins so,
// and returns it as it is for this platform.
func (o *operator) does(beginning string) string {
	o.t.Helper()
	require.NotEmpty(o.t, o.document, "the document has no command %q any more", beginning)
	line := o.document[0]
	require.True(o.t, strings.HasPrefix(line, beginning), "the document's next command is %q, not %q", line, beginning)
	o.document = o.document[1:]
	return o.replace.Replace(line)
}

// runs runs it and returns what it printed.
func (o *operator) runs(beginning string) string {
	o.t.Helper()
	line := o.does(beginning)
	out, err := o.shell(line)
	require.NoError(o.t, err, "%s\n%s", line, out)
	o.t.Logf("%s\n%s", line, out)
	return out
}

func (o *operator) shell(line string) (string, error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", line)
	cmd.Env = append(o.Env(), o.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// up starts the platform with the arguments of a documented `meridian up`.
func (o *operator) up(beginning string) {
	o.t.Helper()
	_, args, ok := strings.Cut(o.does(beginning), " up ")
	require.True(o.t, ok)
	require.NoError(o.t, o.Again(append(strings.Fields(args), o.network()...)...))
	o.t.Logf("up %s: ready after %.1f s", args, o.Took.Seconds())
}

func (o *operator) network() []string { return []string{"--network", "60"} }

func (o *operator) client() *client.Client {
	var bases []string
	for _, r := range o.Table.Regions {
		bases = append(bases, r.API)
	}
	c := client.New(bases, o.Key)
	o.t.Cleanup(c.Close)
	return c
}

func (o *operator) upload(frames int) string {
	o.t.Helper()
	file := filepath.Join(o.t.TempDir(), "v.mp4")
	length := fmt.Sprintf("%.3f", float64(frames)/25)
	stack.FF(o.t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration="+length, "-f", "lavfi", "-i", "sine=frequency=440:duration="+length,
		"-frames:v", fmt.Sprint(frames), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", file)
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Minute)
	defer cancel()
	c := o.client()
	r, err := c.Upload(ctx, client.Upload{Path: file, StateDir: o.t.TempDir()})
	require.NoError(o.t, err)
	require.NoError(o.t, c.Follow(ctx, r.Asset, func(a client.Asset) (bool, error) {
		if a.Failure != nil {
			return true, fmt.Errorf("%s: %s", a.Failure.Code, a.Failure.Detail)
		}
		return a.State == "ready", nil
	}))
	return r.Asset
}

// files are the hashes of all that is stored of an asset, by key.
func (o *operator) files(asset string) map[string]string {
	o.t.Helper()
	secret, err := o.Secret("s3.secret")
	require.NoError(o.t, err)
	s, err := objects.New(o.Table, "eu", objects.Config{AccessKey: "meridian", SecretKey: service.Secret(secret), Bucket: "meridian"}, slog.New(slog.DiscardHandler))
	require.NoError(o.t, err)
	defer s.Close()
	out := map[string]string{}
	for _, b := range s.Regions() {
		for _, prefix := range []string{objects.SourcePrefix(asset), objects.StreamPrefix(asset)} {
			var keys []string
			require.NoError(o.t, b.List(o.t.Context(), prefix, "", func(i objects.Info) bool { keys = append(keys, i.Key); return true }))
			for _, key := range keys {
				info, err := b.Stat(o.t.Context(), key)
				require.NoError(o.t, err)
				out[key] = info.SHA256
			}
		}
	}
	require.Greater(o.t, len(out), 10, "objects of %s", asset)
	return out
}

func (o *operator) plays(asset string, frames int) {
	o.t.Helper()
	for _, r := range o.Table.Regions {
		require.Equal(o.t, frames, stack.Frames(o.t, r.Router.URL+"/v/-/"+asset+"/master.m3u8?steering=0"), "frames of %s in %s", asset, r.Name)
	}
}

// leader is a connection to PostgreSQL's leader as its superuser.
func (o *operator) leader() *pgx.Conn {
	o.t.Helper()
	password, err := o.Secret("postgres-superuser.secret")
	require.NoError(o.t, err)
	conn, err := pgx.Connect(o.t.Context(), "postgres://postgres:"+password+"@"+o.Table.PostgresDSNHosts("eu")+"/postgres?sslmode=disable&target_session_attrs=read-write")
	require.NoError(o.t, err)
	o.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func eventually(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > within {
			t.Fatalf("not within %v: %v", within, err)
		}
	}
}

func TestEverythingIsLostAndRestored(t *testing.T) {
	testenv.Long(t)
	// pgBackRest's repository and the copy of the secrets, on "another machine".
	elsewhere, err := os.MkdirTemp("/tmp", "meridian-elsewhere-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(elsewhere) })
	repository, secrets, conf := filepath.Join(elsewhere, "postgres"), filepath.Join(elsewhere, "secrets"), filepath.Join(elsewhere, "repository.conf")
	require.NoError(t, os.Chmod(elsewhere, 0o755))
	for dir, mode := range map[string]os.FileMode{repository: 0o777, secrets: 0o755} {
		require.NoError(t, os.Mkdir(dir, mode))
		require.NoError(t, os.Chmod(dir, mode))
	}
	require.NoError(t, os.WriteFile(conf, []byte("repo1-path="+repository+"\n"), 0o600))
	archive := testenv.MinIO(t)

	b, err := os.ReadFile("../../../docs/operate/backup.md")
	require.NoError(t, err)
	o := &operator{t: t, document: documented.FindAllString(string(b), -1), env: []string{
		"MERIDIAN_ARCHIVE_ENDPOINT=" + archive.Endpoint, "MERIDIAN_ARCHIVE_ACCESS_KEY=" + archive.AccessKey, "MERIDIAN_ARCHIVE_SECRET_KEY=" + archive.SecretKey}}
	first := o.document[0]
	require.Equal(t, "bin/meridian up --backup-config /etc/meridian/repository.conf", first)
	o.document = o.document[1:]
	o.Stack, err = stack.Start(stack.Options{Name: "backup", Args: append([]string{"--backup-config", conf}, o.network()...)})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			o.DumpLogs()
		}
		if err := o.Stop(); err != nil {
			t.Error(err)
		}
	})
	at := time.Time{}
	o.replace = strings.NewReplacer("bin/meridian", o.Bin, "/var/lib/meridian-lost", o.State()+"-lost", "/var/lib/meridian", o.State(),
		"/srv/meridian-secrets", secrets, "/etc/meridian/repository.conf", conf, "2026-11-26T14:05:00Z", "RESTORE-TIME")

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
	require.NoError(t, o.leader().QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&at))
	files := map[string]map[string]string{deleted: o.files(deleted), kept: o.files(kept)}

	// The mistake, and what came after it.
	require.NoError(t, o.client().DeleteAsset(t.Context(), deleted))
	later := o.upload(25)
	out, err := o.shell(o.Bin + " archive save --config " + filepath.Join(o.State(), "operator.yaml"))
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

	// All regions are lost.
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, o.End())
	testenv.Figure(t, "backup and archive of three small assets", "%.1f s", time.Since(took).Seconds())
	began := time.Now()
	o.runs("mv /var/lib/meridian")
	require.NoError(t, os.RemoveAll(o.State()+"-lost"))
	o.runs("cp -a /srv/meridian-secrets")
	o.replace = strings.NewReplacer("bin/meridian", o.Bin, "/var/lib/meridian", o.State(), "/etc/meridian/repository.conf", conf, "2026-11-26T14:05:00Z", at.UTC().Format(time.RFC3339Nano))
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
	o.runs("bin/meridian reconcile --read")

	// It goes on: numbers are given again, backups and archives follow.
	next := o.upload(30)
	o.plays(next, 30)
	out, err = o.shell(o.Bin + " archive save --config " + filepath.Join(o.State(), "operator.yaml"))
	require.Error(t, err)
	require.Contains(t, out, "archive to a new bucket")
	require.Contains(t, string(b), "\nexport MERIDIAN_ARCHIVE_BUCKET=meridian-archive-2\n")
	o.env = append(slices.Clone(o.env), "MERIDIAN_ARCHIVE_BUCKET=meridian-archive-2")
	o.runs("bin/meridian archive save")
	require.Empty(t, o.document, "commands of the document that were not run")
}
