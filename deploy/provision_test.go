package deploy

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/platform"
	"github.com/meridian-video/meridian/internal/region"
)

func composeTable(t *testing.T) *region.Table {
	t.Helper()
	table, err := region.Load(filepath.Join("compose", "regions.yaml"))
	require.NoError(t, err)
	return table
}

// tree is every file below dir with its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(b)
		return err
	}))
	return out
}

func TestProvisionKeepsSecrets(t *testing.T) {
	table, dir := composeTable(t), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	first := tree(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "eu", "api", "stray.key"), []byte("old"), 0o600))
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	require.Equal(t, first, tree(t, dir))

	// A store that moves gets another certificate, the others keep theirs.
	table.Regions[0].S3 = "https://objects.eu.example:9000"
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	moved := tree(t, dir)
	require.NotEqual(t, first["eu/minio/public.crt"], moved["eu/minio/public.crt"])
	require.Equal(t, first["us/minio/public.crt"], moved["us/minio/public.crt"])
}

func TestComponentsKnowOnlyTheirs(t *testing.T) {
	table, dir := composeTable(t), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	files := tree(t, dir)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), "what is readable below is so behind this directory alone")

	// Secret → components that may hold it.
	for secret, may := range map[string][]string{
		"root.key":                  nil,
		"ca.key":                    nil,
		"record.key":                {API},
		"playback.key":              {API},
		"api.key":                   {API},
		"nats.secret":               {API, Encoder, GeoDNS, NATS},
		"postgres.secret":           {API, Encoder, Postgres},
		"postgres-superuser.secret": {Postgres},
		"s3.secret":                 {API, Encoder, GeoDNS, Edge, MinIO},
		"session-eu.key":            {Edge},
	} {
		value := strings.TrimSpace(files[filepath.Join(keysDir, secret)])
		require.NotEmpty(t, value, secret)
		for name, content := range files {
			parts := strings.Split(name, "/")
			if len(parts) == 3 && strings.Contains(content, value) {
				require.Contains(t, may, parts[1], "%s in %s", secret, name)
				if secret == "session-eu.key" {
					require.Equal(t, "eu", parts[0], "a region's session key stays there")
				}
			}
		}
	}
}

func TestStoresTrustEachOther(t *testing.T) {
	table, dir := composeTable(t), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	for _, r := range table.Regions {
		for component, host := range map[string]string{
			Etcd: "etcd." + r.Name + ".meridian.internal", Postgres: "postgres." + r.Name + ".meridian.internal", NATS: "nats." + r.Name + ".meridian.internal",
		} {
			at := func(name string) string { return filepath.Join(dir, r.Name, component, name) }
			pair, err := tls.LoadX509KeyPair(at("tls.crt"), at("tls.key"))
			require.NoError(t, err)
			pool := x509.NewCertPool()
			ca, err := os.ReadFile(at("ca.crt"))
			require.NoError(t, err)
			require.True(t, pool.AppendCertsFromPEM(ca))
			for _, name := range []string{host, "localhost", "127.0.0.1"} {
				_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
				require.NoError(t, err)
			}
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			require.NoError(t, err)
		}
	}
}

func TestStoresReplicateOverRegions(t *testing.T) {
	table, dir := composeTable(t), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, dir, []byte("geo"), nil))
	var patroni struct {
		Bootstrap struct {
			DCS map[string]any `yaml:"dcs"`
		} `yaml:"bootstrap"`
		Etcd3 struct {
			Hosts    []string `yaml:"hosts"`
			Protocol string   `yaml:"protocol"`
		} `yaml:"etcd3"`
		PostgreSQL struct {
			Connect string   `yaml:"connect_address"`
			HBA     []string `yaml:"pg_hba"`
		} `yaml:"postgresql"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "us", Postgres, "patroni.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, &patroni))
	require.Equal(t, true, patroni.Bootstrap.DCS["synchronous_mode_strict"])
	require.Equal(t, "https", patroni.Etcd3.Protocol)
	require.Equal(t, []string{"etcd.us.meridian.internal:2379", "etcd.eu.meridian.internal:2379", "etcd.ap.meridian.internal:2379"}, patroni.Etcd3.Hosts)
	require.Equal(t, "postgres.us.meridian.internal:5432", patroni.PostgreSQL.Connect)
	for _, rule := range patroni.PostgreSQL.HBA {
		require.True(t, strings.HasPrefix(rule, "hostssl "), rule)
	}
	b, err = os.ReadFile(filepath.Join(dir, "us", NATS, "nats.conf"))
	require.NoError(t, err)
	for _, want := range []string{"tls://nats.eu.meridian.internal:6222", "tls://nats.us.meridian.internal:6222", "verify: true", `unique_tag: "region:"`, "sync_interval: always"} {
		require.Contains(t, string(b), want)
	}
	require.NotContains(t, string(b), "tls://nats.ap", "ap connects to us: two connections that cross drop each other")
}

// Backups add to PostgreSQL's files, and to nobody else's; a password is in none of
// them that wasn't before.
func TestBackups(t *testing.T) {
	table, plain, dir := composeTable(t), filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, plain, []byte("geo"), nil))
	require.NoError(t, Provision(table, dir, []byte("geo"), &platform.Backup{Options: "repo1-path=/srv/backup\nrepo1-retention-full=9\n", Restore: "2026-11-26T15:05:00.5+01:00"}))
	for _, c := range Components(table.Regions[0]) {
		_, err := os.Stat(filepath.Join(dir, "eu", c, "pgbackrest.conf"))
		require.Equal(t, c == Postgres, err == nil, c)
	}
	_, err := os.Stat(filepath.Join(plain, "eu", Postgres, "pgbackrest.conf"))
	require.ErrorIs(t, err, os.ErrNotExist)
	b, err := os.ReadFile(filepath.Join(dir, "eu", Postgres, "pgbackrest.conf"))
	require.NoError(t, err)
	for _, want := range []string{"[global]\nrepo1-path=/srv/backup\nrepo1-retention-full=9\n", "lock-path=/tmp/", "[meridian]\npg1-path=/var/lib/meridian/postgres/data\npg1-socket-path=/tmp\n"} {
		require.Contains(t, string(b), want)
	}
	require.NotContains(t, string(b), "retention-full=2")
	var patroni struct {
		Bootstrap struct {
			Method  string         `yaml:"method"`
			Restore map[string]any `yaml:"restore"`
			DCS     map[string]any `yaml:"dcs"`
		} `yaml:"bootstrap"`
		PostgreSQL struct {
			Parameters map[string]any `yaml:"parameters"`
			HBA        []string       `yaml:"pg_hba"`
		} `yaml:"postgresql"`
	}
	b, err = os.ReadFile(filepath.Join(dir, "eu", Postgres, "patroni.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, &patroni))
	require.Equal(t, "pgbackrest --config=/run/meridian/pgbackrest.conf --stanza=meridian archive-push %p", patroni.PostgreSQL.Parameters["archive_command"])
	require.Equal(t, "on", patroni.PostgreSQL.Parameters["archive_mode"])
	require.Equal(t, "local all postgres scram-sha-256", patroni.PostgreSQL.HBA[0])
	require.Equal(t, "restore", patroni.Bootstrap.Method)
	require.Contains(t, patroni.Bootstrap.Restore["command"], `"--target=2026-11-26 14:05:00.500000+00"`)
}

func TestTableWithoutTLSIsRefused(t *testing.T) {
	table, err := region.Loopback()
	require.NoError(t, err)
	err = Provision(table, t.TempDir(), nil, nil)
	for _, want := range []string{"region eu: s3", "region us: nats", "region ap: s3"} {
		require.ErrorContains(t, err, want)
	}
}

func TestRegionsThatHoldQuorumAreOdd(t *testing.T) {
	table := composeTable(t)
	require.Len(t, table.Regions, 3)
	table.Regions[2].Control = false
	require.ErrorContains(t, Provision(table, t.TempDir(), []byte("geo"), nil), "2 regions with control: true")
	table.Regions[1].Control = false
	require.NoError(t, Provision(table, t.TempDir(), []byte("geo"), nil))
}

func TestEtcdStandsBesidePostgres(t *testing.T) {
	for postgres, want := range map[string]string{"postgres.eu.example:5432": "etcd.eu.example", "198.18.1.1:5432": "198.18.1.1", "[2001:db8::1]:5432": "2001:db8::1"} {
		got, err := etcdHost(region.Region{Postgres: postgres})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := etcdHost(region.Region{Postgres: "postgres:5432"})
	require.ErrorContains(t, err, "name with a domain")
}
