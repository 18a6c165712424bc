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
	require.NoError(t, Provision(table, dir, []byte("geo")))
	first := tree(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "eu", "api", "stray.key"), []byte("old"), 0o600))
	require.NoError(t, Provision(table, dir, []byte("geo")))
	require.Equal(t, first, tree(t, dir))

	// A store that moves gets another certificate, the others keep theirs.
	table.Regions[0].S3 = "https://objects.eu.example:9000"
	require.NoError(t, Provision(table, dir, []byte("geo")))
	moved := tree(t, dir)
	require.NotEqual(t, first["eu/minio/public.crt"], moved["eu/minio/public.crt"])
	require.Equal(t, first["us/minio/public.crt"], moved["us/minio/public.crt"])
}

func TestComponentsKnowOnlyTheirs(t *testing.T) {
	table, dir := composeTable(t), filepath.Join(t.TempDir(), "out")
	require.NoError(t, Provision(table, dir, []byte("geo")))
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
	require.NoError(t, Provision(table, dir, []byte("geo")))
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
	require.NoError(t, Provision(table, dir, []byte("geo")))
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

func TestTableWithoutTLSIsRefused(t *testing.T) {
	table, err := region.Loopback()
	require.NoError(t, err)
	err = Provision(table, t.TempDir(), nil)
	for _, want := range []string{"region eu: s3", "region us: nats", "region ap: s3"} {
		require.ErrorContains(t, err, want)
	}
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
