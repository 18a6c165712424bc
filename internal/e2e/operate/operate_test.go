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

// running is the platform that all tests here use; nil unless tests are long.
var running *stack.Stack

// elsewhere is a directory of "another machine": pgBackRest's repository, a copy
// of the secrets.
var elsewhere string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if !testenv.IsLong() {
		return m.Run()
	}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if elsewhere, err = os.MkdirTemp("/tmp", "meridian-elsewhere-"); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(elsewhere)
	if err := makeElsewhere(); err != nil {
		return fail(err)
	}
	if running, err = stack.Start(stack.Options{Name: "operate", Args: append([]string{"--backup-config", repositoryFile()}, network...)}); err != nil {
		return fail(err)
	}
	return running.Run(m)
}

var network = []string{"--network", "60"}

func repositoryFile() string { return filepath.Join(elsewhere, "repository.conf") }
func secretsCopy() string    { return filepath.Join(elsewhere, "secrets") }

func makeElsewhere() error {
	repository := filepath.Join(elsewhere, "postgres")
	err := errors.Join(os.Chmod(elsewhere, 0o755), os.Mkdir(repository, 0o777), os.Mkdir(secretsCopy(), 0o755))
	// PostgreSQL's user writes there.
	return errors.Join(err, os.Chmod(repository, 0o777), os.WriteFile(repositoryFile(), []byte("repo1-path="+repository+"\n"), 0o600))
}

// operator does what a document says.
type operator struct {
	*stack.Stack
	t        *testing.T
	document []string // its commands that weren't run yet
	replace  *strings.Replacer
	env      []string
}

var documented = regexp.MustCompile(`(?m)^(?:bin/meridian|pgbackrest|cp|mv|rm) .*$`)

// newOperator opens a document of docs/operate.
func newOperator(t *testing.T, document string) *operator {
	t.Helper()
	testenv.Long(t)
	o := &operator{Stack: running, t: t}
	o.reads(document)
	o.at(time.Time{})
	return o
}

// at sets the time that is restored.
func (o *operator) at(at time.Time) {
	o.replace = strings.NewReplacer("bin/meridian", o.Bin, "/var/lib/meridian-lost", o.State()+"-lost", "/var/lib/meridian", o.State(),
		"/srv/meridian-secrets", secretsCopy(), "/etc/meridian/repository.conf", repositoryFile(), "2026-11-26T14:05:00Z", at.UTC().Format(time.RFC3339Nano))
}

func (o *operator) reads(document string) string {
	o.t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "operate", document))
	require.NoError(o.t, err)
	o.document = documented.FindAllString(string(b), -1)
	return string(b)
}

// config is the file that operators' commands read.
func (o *operator) config() string { return filepath.Join(o.State(), "operator.yaml") }

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

// reconciles repeats a command until stores and catalog agree: repair may still
// have copies to make.
func (o *operator) reconciles(command string) string {
	o.t.Helper()
	var out string
	eventually(o.t, 3*time.Minute, func() error {
		var err error
		if out, err = o.shell(command); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	o.t.Logf("%s\n%s", command, out)
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
	require.NoError(o.t, o.Again(append(strings.Fields(args), network...)...))
	o.t.Logf("up %s: ready after %.1f s", args, o.Took.Seconds())
}

func (o *operator) client() *client.Client {
	var bases []string
	for _, r := range o.Table.Regions {
		bases = append(bases, r.API)
	}
	c := client.New(bases, o.Key)
	o.t.Cleanup(c.Close)
	return c
}

func (o *operator) upload(frames int, more ...func(*client.Upload)) string {
	o.t.Helper()
	file := filepath.Join(o.t.TempDir(), "v.mp4")
	length := fmt.Sprintf("%.3f", float64(frames)/25)
	stack.FF(o.t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration="+length, "-f", "lavfi", "-i", "sine=frequency=440:duration="+length,
		"-frames:v", fmt.Sprint(frames), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", file)
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Minute)
	defer cancel()
	c := o.client()
	u := client.Upload{Path: file, StateDir: o.t.TempDir()}
	for _, f := range more {
		f(&u)
	}
	r, err := c.Upload(ctx, u)
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
	conn, err := pgx.Connect(o.t.Context(), o.leaderDSN())
	require.NoError(o.t, err)
	o.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (o *operator) leaderDSN() string {
	o.t.Helper()
	password, err := o.Secret("postgres-superuser.secret")
	require.NoError(o.t, err)
	return "postgres://postgres:" + password + "@" + o.Table.PostgresDSNHosts("eu") + "/postgres?sslmode=disable&target_session_attrs=read-write"
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
