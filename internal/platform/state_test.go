package platform

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
	"github.com/meridian-video/meridian/tools"
)

func nothing() error { return nil }

// The development CA vouches for every address and name that up answers at.
func TestDevelopmentCertificate(t *testing.T) {
	dir := t.TempDir()
	table, err := region.Loopback()
	require.NoError(t, err)
	require.NoError(t, issueDevelopment(dir, table, false))
	sec, err := loadSecrets(dir, table)
	require.NoError(t, err)
	require.Empty(t, sec.tlsEnv("MERIDIAN_EDGE_TLS_", "127.1.0.1:8445"), "off by default")

	require.NoError(t, issueDevelopment(dir, table, true))
	sec, err = loadSecrets(dir, table)
	require.NoError(t, err)
	env := sec.tlsEnv("MERIDIAN_EDGE_TLS_", "127.1.0.1:8445")
	require.Equal(t, "MERIDIAN_EDGE_TLS_LISTEN=127.1.0.1:8445", env[0])
	pair, err := tls.LoadX509KeyPair(strings.TrimPrefix(env[1], "MERIDIAN_EDGE_TLS_CERT="), strings.TrimPrefix(env[2], "MERIDIAN_EDGE_TLS_KEY="))
	require.NoError(t, err)
	ca, err := certificate.LoadAuthority(dir, "")
	require.NoError(t, err)
	for _, name := range []string{"127.1.0.1", "127.1.0.2", "127.3.0.2", "localhost", "play.meridian.test", "eu-1.edge.meridian.test"} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool()})
		require.NoError(t, err, name)
	}
	require.NoError(t, issueDevelopment(dir, table, true))
	again, err := tls.LoadX509KeyPair(filepath.Join(dir, tlsCertFile), filepath.Join(dir, tlsKeyFile))
	require.NoError(t, err)
	require.Equal(t, pair.Leaf.SerialNumber, again.Leaf.SerialNumber, "kept while it is good")
	require.NoError(t, issueDevelopment(dir, table, false))
	sec, err = loadSecrets(dir, table)
	require.NoError(t, err)
	require.False(t, sec.tls)
}

func TestFreshWipesOnlyOurOwn(t *testing.T) {
	theirs := t.TempDir()
	photo := filepath.Join(theirs, "photo.jpg")
	require.NoError(t, os.WriteFile(photo, nil, 0o600))
	_, err := openState(theirs, true, layout{regions: []string{"eu"}}, nothing)
	require.ErrorContains(t, err, "holds other files (photo.jpg)")
	require.FileExists(t, photo)

	dir := filepath.Join(t.TempDir(), "new")
	s, err := openState(dir, false, layout{regions: []string{"eu"}}, nothing)
	require.NoError(t, err)
	old := s.path("logs", "old")
	require.NoError(t, os.WriteFile(old, nil, 0o600))
	s.release()
	s, err = openState(dir, false, layout{regions: []string{"eu"}}, nothing)
	require.NoError(t, err)
	require.FileExists(t, old)
	s.release()
	s, err = openState(dir, true, layout{regions: []string{"eu", "us", "ap"}}, nothing)
	require.NoError(t, err)
	require.NoFileExists(t, old)
	_, err = openState(dir, false, layout{regions: []string{"eu", "us", "ap"}}, nothing)
	require.ErrorContains(t, err, "runs already")
	s.release()
	s, err = openState(dir, false, layout{regions: []string{"ap", "eu", "us"}}, nothing)
	require.NoError(t, err, "the order of regions doesn't matter")
	s.release()
}

func TestStateOfAnotherLayout(t *testing.T) {
	for text, want := range map[string]string{"99 eu\n": "has layout 99", "": "is damaged"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, markFile), []byte(text), 0o600))
		_, err := openState(dir, false, layout{regions: []string{"eu"}}, nothing)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "--fresh")
	}
}

func TestDataOfAnotherPostgres(t *testing.T) {
	dir := t.TempDir()
	_, err := postgresFor(dir)
	require.NoError(t, err, "a new directory takes the newest")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("9\n"), 0o600))
	_, err = postgresFor(dir)
	require.ErrorContains(t, err, "made by PostgreSQL 9")
	require.ErrorContains(t, err, "--fresh")
}

func TestMissingProgramsAreAllNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("MERIDIAN_CACHE", t.TempDir())
	err := checkPrograms(false)
	require.ErrorIs(t, err, tools.ErrMissing)
	for _, want := range []string{"etcd", "patroni", "ffmpeg", "nats-server", "minio", "make install", "make tools"} {
		require.ErrorContains(t, err, want)
	}
}

func TestSecretsAreKept(t *testing.T) {
	dir := t.TempDir()
	table, err := region.Loopback("eu")
	require.NoError(t, err)
	first, err := loadSecrets(dir, table)
	require.NoError(t, err)
	second, err := loadSecrets(dir, table)
	require.NoError(t, err)
	require.Equal(t, first, second)
	require.NotEqual(t, first.s3, first.database)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm(), e.Name())
	}
}

func TestClientConfigOfTheUserIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "client.yaml")
	for range 2 {
		written, err := writeClientConfig(path, "http://a", "mk_x")
		require.NoError(t, err)
		require.True(t, written)
	}
	require.NoError(t, os.WriteFile(path, []byte("api: https://production\n"), 0o600))
	written, err := writeClientConfig(path, "http://a", "mk_x")
	require.NoError(t, err)
	require.False(t, written)
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Command{Regions: []string{"eu", "eu", "mars"}, Network: 300, State: "/" + strings.Repeat("x", 100)}).Validate()
	for _, want := range []string{"eu is named twice", `unknown region "mars"`, "network 300", "too long"} {
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, (&Command{State: "/x"}).Validate(), "want at least one")
	require.ErrorContains(t, (&Command{State: "/x", Regions: []string{"eu", "us"}}).Validate(), "majority")
	require.NoError(t, (&Command{State: "/x", Regions: []string{"eu", "us", "ap"}}).Validate())
}

func TestTableMovesToAnotherNetwork(t *testing.T) {
	table, err := (&Command{Regions: []string{"eu", "us", "ap"}, Network: 1}).table()
	require.NoError(t, err)
	for i, r := range table.Regions {
		want := netip.AddrFrom4([4]byte{127, byte(i + 2), 0, 1}).String()
		require.Equal(t, want, host(r))
		require.Equal(t, want, r.Edges[0].Addresses[0].String())
		require.Contains(t, r.S3, want+":")
	}
	var b bytes.Buffer
	require.NoError(t, geo.BuildDevelopment(&b))
	places, err := geo.ParseDatabase(b.Bytes())
	require.NoError(t, err)
	for network, want := range map[int]string{0: "198.18.2.1", 1: "198.19.2.1", 2: "198.18.18.1", 5: "198.19.34.1", maxIsolated: "198.19.50.1"} {
		table, err := (&Command{Regions: []string{"eu", "us", "ap"}, Isolated: true, Network: network}).table()
		require.NoError(t, err)
		require.Equal(t, want, host(table.Regions[1]))
		cfg, err := wan.Topology(table)
		require.NoError(t, err)
		i := slices.IndexFunc(cfg.Nodes, func(n wan.Node) bool { return n.Name == wan.ViewersNode("us") })
		viewer := cfg.Nodes[i].Addresses[0].Addr()
		require.Equal(t, "US", places.Locate(viewer).Country, "%s", viewer)
	}
	require.ErrorContains(t, (&Command{State: "/x", Regions: []string{"eu"}, Isolated: true, Network: maxIsolated + 1}).Validate(), "want 0 to 7")
}

func TestConfigurationFiles(t *testing.T) {
	for name, regions := range map[string][]string{"one": {"eu"}, "three": {"eu", "us", "ap"}} {
		table, err := region.Loopback(regions...)
		require.NoError(t, err)
		p := &plan{table: table, secrets: &secrets{superuser: "s1", replication: "s2"}}
		last := table.Regions[len(regions)-1] // it connects to the others
		conf, err := p.natsConfig(last, "/state/"+last.Name+"/nats")
		require.NoError(t, err)
		golden(t, name+".nats.conf", []byte(conf))
		b, err := yaml.Marshal(p.patroniConfig(table.Regions[0], "/state/eu/postgres", "/state/eu/postgres/data", "/pg/bin"))
		require.NoError(t, err)
		golden(t, name+".patroni.yml", b)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestFindSocket(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100017F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100027F:2328 0100007F:2328 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0
`
	for addr, want := range map[string]string{"127.1.0.1:9000": "111", "127.2.0.1:9000": "", "127.9.0.1:8080": "333", "127.1.0.1:1": ""} {
		require.Equal(t, want, findSocket(tcp, "tcp", netip.MustParseAddrPort(addr)), addr)
	}
}

func FuzzFindSocket(f *testing.F) {
	f.Add("   0: 0100017F:2328 00000000:0000 0A 0:0 0:0 0 0 0 111")
	f.Fuzz(func(t *testing.T, s string) { findSocket(s, "tcp", netip.MustParseAddrPort("127.1.0.1:9000")) })
}

func TestBackupOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "repository.conf")
	write := func(s string) {
		require.NoError(t, os.WriteFile(file, []byte(s), 0o600))
	}
	write("# where\n[global]\nrepo1-path = /srv/backup\nio-timeout=60\n")
	b, err := LoadBackup(file, "2026-11-26T14:05:00Z")
	require.NoError(t, err)
	conf := string(b.Config("/d", "/s", "/l", 5432))
	require.Contains(t, conf, "[global]\nrepo1-path = /srv/backup\nio-timeout=60\n")
	require.NotContains(t, conf, "io-timeout=15", "the operator's word")
	require.Contains(t, conf, "repo1-retention-full=2\n")

	write("pg1-path=/x\nwhat is this\n[meridian]\n")
	_, err = LoadBackup(file, "yesterday")
	for _, want := range []string{"line 1: pg1-path is set by the platform", `line 2: "what is this"`, `line 3: "[meridian]"`, "no repository", `--restore "yesterday"`} {
		require.ErrorContains(t, err, want)
	}
	_, err = LoadBackup("", "latest")
	require.ErrorContains(t, err, "name the repository")
	b, err = LoadBackup("", "")
	require.NoError(t, err)
	require.Nil(t, b)
}

// What a start wants of backups is what regions find, and gone with the next that wants none.
func TestBackupIsKept(t *testing.T) {
	dir := t.TempDir()
	want := &Backup{Options: "repo1-path=/srv/backup\n", Restore: RestoreLatest}
	require.NoError(t, keepBackup(dir, want))
	got, err := keptBackup(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, keepBackup(dir, &Backup{Options: want.Options}))
	got, err = keptBackup(dir)
	require.NoError(t, err)
	require.Empty(t, got.Restore)
	require.NoError(t, keepBackup(dir, nil))
	got, err = keptBackup(dir)
	require.NoError(t, err)
	require.Nil(t, got)
}
