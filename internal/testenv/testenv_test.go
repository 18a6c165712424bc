package testenv

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("TESTENV_CHILD") != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

func TestPostgresGivesEveryTestItsOwnDatabase(t *testing.T) {
	ctx := t.Context()
	var seen []string
	for range 2 {
		t.Run("", func(t *testing.T) {
			c, err := pgx.Connect(ctx, Postgres(t))
			require.NoError(t, err)
			defer c.Close(ctx)
			_, err = c.Exec(ctx, "CREATE TABLE t (n int)")
			require.NoError(t, err)
			var name string
			require.NoError(t, c.QueryRow(ctx, "SELECT current_database()").Scan(&name))
			require.NotContains(t, seen, name)
			seen = append(seen, name)
		})
	}
	c, err := pgx.Connect(ctx, Postgres(t))
	require.NoError(t, err)
	defer c.Close(ctx)
	var left int
	require.NoError(t, c.QueryRow(ctx, "SELECT count(*) FROM pg_database WHERE datname = any($1)", seen).Scan(&left))
	require.Zero(t, left, "databases of ended tests are still there")
}

func TestNATSHasJetStream(t *testing.T) {
	nc, err := nats.Connect(NATS(t))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), "s.a", []byte("x"))
	require.NoError(t, err)
	require.EqualValues(t, 1, ack.Sequence)
}

func client(t *testing.T, s S3Server) *minio.Client {
	tr, err := minio.DefaultTransport(false)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	c, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1", Transport: tr})
	require.NoError(t, err)
	return c
}

func TestS3ServersAreApart(t *testing.T) {
	servers := S3(t, 2)
	require.NotEqual(t, servers[0].Endpoint, servers[1].Endpoint)
	require.Equal(t, servers[0].Bucket, servers[1].Bucket)
	require.NotEqual(t, servers[0].Bucket, S3(t, 1)[0].Bucket)
	err := client(t, servers[0]).MakeBucket(t.Context(), servers[0].Bucket, minio.MakeBucketOptions{})
	if err != nil {
		m, _ := exec.Command("sh", "-c", "cat /tmp/meridian-test-s3-*/log; ss -tlnp; ps aux |grep minio").CombinedOutput()
		t.Logf("%s", m)
	}
	require.NoError(t, err)
	exists, err := client(t, servers[1]).BucketExists(t.Context(), servers[1].Bucket)
	require.NoError(t, err)
	require.False(t, exists)
}

func TestMinIOKilledAndHung(t *testing.T) {
	ctx := t.Context()
	m := MinIO(t)
	c := client(t, m.S3Server)
	require.NoError(t, c.MakeBucket(ctx, m.Bucket, minio.MakeBucketOptions{}))
	_, err := c.PutObject(ctx, m.Bucket, "k", strings.NewReader("v"), 1, minio.PutObjectOptions{})
	require.NoError(t, err)

	require.NoError(t, m.Hang())
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = c.StatObject(short, m.Bucket, "k", minio.StatObjectOptions{})
	cancel()
	require.Error(t, err)
	require.NoError(t, m.Resume())

	require.NoError(t, m.Kill())
	require.Error(t, m.Kill())
	_, err = os.Stat(m.dir)
	require.NoError(t, err, "data must survive a kill")
	require.NoError(t, m.Start(ctx))
	_, err = c.StatObject(ctx, m.Bucket, "k", minio.StatObjectOptions{})
	require.NoError(t, err)
}

// child is a test process that starts servers and waits to be killed.
func child() {
	pg, err := StartPostgres(context.Background())
	if err != nil {
		panic(err)
	}
	n, err := StartNATS(context.Background())
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(strconv.Itoa(pg.pid) + " " + strconv.Itoa(n.pid) + "\n")
	select {}
}

func TestServersEndWithAKilledProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TESTENV_CHILD=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 100)
	n, err := out.Read(buf)
	require.NoError(t, err)
	pids := strings.Fields(string(bytes.TrimSpace(buf[:n])))
	require.Len(t, pids, 2)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, s := range pids {
		pid, err := strconv.Atoi(s)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, 10*time.Second, 20*time.Millisecond,
			"process %d still runs", pid)
	}
}
