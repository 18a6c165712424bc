package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/platform"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is `meridian provision`.
type Command struct {
	Regions      string `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	Out          string `help:"Directory for the result; secrets already in it are kept." required:"" placeholder:"DIR"`
	BackupConfig string `help:"Back PostgreSQL up with pgBackRest, to the repository whose options (of its section [global]) are in this file." env:"MERIDIAN_BACKUP_CONFIG" placeholder:"FILE"`
	Restore      string `help:"Have PostgreSQL, on empty volumes, made from that repository: latest, or as it was at a time (RFC 3339)." placeholder:"TIME"`
	GeoDatabase  string `help:"City database (mmdb) for routers and edges. Default: the development database, which places 127.11-13/16 and 198.18.11-13/24 only." placeholder:"FILE"`
}

// Run writes the directory.
func (c *Command) Run(context.Context) error {
	t, err := region.Load(c.Regions)
	if err != nil {
		return err
	}
	var geoDB []byte
	if c.GeoDatabase != "" {
		if geoDB, err = os.ReadFile(c.GeoDatabase); err != nil {
			return fmt.Errorf("geo database: %w", err)
		}
	}
	backup, err := platform.LoadBackup(c.BackupConfig, c.Restore)
	if err != nil {
		return err
	}
	return Provision(t, c.Out, geoDB, backup)
}

// Where a component finds its directory, and a store its data.
const (
	Mount = "/run/meridian"
	Data  = "/var/lib/meridian"
)

// keysDir holds what no region needs to run.
const keysDir = "keys"

// Secret files of the keys directory beside those of internal/token.
const (
	apiKeyFile      = "api.key"
	s3SecretFile    = "s3.secret"
	natsFile        = "nats.secret"
	databaseFile    = "postgres.secret"
	superuserFile   = "postgres-superuser.secret"
	replicationFile = "postgres-replication.secret"
	patroniFile     = "patroni.secret"
	// certificatesFile is what certificates shared between regions are sealed with.
	certificatesFile = "certificates.key"
)

// Modes: the directory is its owner's; below it components may read as whatever
// user they run, because only what is mounted reaches them.
const (
	privateDir  = 0o700
	sharedDir   = 0o755
	privateFile = 0o600
	sharedFile  = 0o444
)

// Components of a region, the directories Provision makes.
const (
	API      = "api"
	Encoder  = "encoder"
	GeoDNS   = "geodns"
	Edge     = "edge"
	Etcd     = "etcd"
	Postgres = "postgres"
	NATS     = "nats"
	MinIO    = "minio"
)

// Components returns the components of a region; etcd and PostgreSQL only run in control regions.
func Components(r region.Region) []string {
	out := []string{API, Encoder, GeoDNS, Edge, NATS, MinIO}
	if r.Control {
		out = append(out, Etcd, Postgres)
	}
	return out
}

// provision is one run.
type provision struct {
	table   *region.Table
	out     string
	geoDB   []byte
	secrets map[string]string
	backup  *platform.Backup
	ca      *certificate.Authority
}

// Provision makes the directory out for the regions of t. geoDB is the geo
// database for routers and edges; nil: the development one. backup is PostgreSQL's;
// nil: none. Called again it keeps secrets and certificates that are still good.
func Provision(t *region.Table, out string, geoDB []byte, backup *platform.Backup) error {
	if err := checkTable(t); err != nil {
		return err
	}
	if geoDB == nil {
		var b bytes.Buffer
		if err := geo.BuildDevelopment(&b); err != nil {
			return err
		}
		geoDB = b.Bytes()
	}
	p := &provision{table: t, out: out, geoDB: geoDB, secrets: map[string]string{}, backup: backup}
	if err := os.MkdirAll(p.key(), privateDir); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	if err := os.Chmod(out, privateDir); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	if err := p.loadSecrets(); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	for _, r := range t.Regions {
		for _, c := range Components(r) {
			files, err := p.files(r, c)
			if err == nil {
				err = p.write(filepath.Join(r.Name, c), files)
			}
			if err != nil {
				return fmt.Errorf("provision %s of %s: %w", c, r.Name, err)
			}
		}
	}
	return nil
}

// checkTable refuses what TLS between regions can't work with.
func checkTable(t *region.Table) error {
	var errs []error
	quorum := 0
	for _, r := range t.Regions {
		if r.Control {
			quorum++
		}
		if !strings.HasPrefix(r.S3, "https://") {
			errs = append(errs, fmt.Errorf("region %s: s3 %q: want https, regions talk over TLS", r.Name, r.S3))
		}
		if !strings.HasPrefix(r.NATS, "tls://") {
			errs = append(errs, fmt.Errorf("region %s: nats %q: want tls, regions talk over TLS", r.Name, r.NATS))
		}
		if strings.Contains(r.NATS, "@") {
			errs = append(errs, fmt.Errorf("region %s: nats: leave out user and password, they are made here", r.Name))
		}
	}
	if quorum%2 == 0 {
		errs = append(errs, fmt.Errorf("%d regions with control: true: want one or three, half of them have no majority when the others are lost", quorum))
	}
	return errors.Join(errs...)
}

func (p *provision) key(elem ...string) string {
	return filepath.Join(append([]string{p.out, keysDir}, elem...)...)
}

func (p *provision) loadSecrets() error {
	for _, f := range []struct{ name, prefix string }{
		{apiKeyFile, "mk_"}, {s3SecretFile, ""}, {natsFile, ""}, {databaseFile, ""}, {superuserFile, ""}, {replicationFile, ""}, {patroniFile, ""}, {certificatesFile, ""},
	} {
		v, err := durable.Secret(p.key(f.name), f.prefix, "delete it to have it made anew")
		if err != nil {
			return err
		}
		p.secrets[f.name] = v
	}
	if err := token.GenerateSecrets(p.key(), p.table.Names()); err != nil {
		return err
	}
	var err error
	p.ca, err = certificate.LoadAuthority(p.key(), "Meridian stores")
	return err
}

// files is the content of a component's directory, by path in it.
func (p *provision) files(r region.Region, component string) (map[string][]byte, error) {
	out := map[string][]byte{"ca.crt": p.ca.PEM()}
	var keys []string
	switch component {
	case API:
		keys = []string{token.RootPublicFile, token.RecordKeyFile, token.PlaybackKeyFile, token.KeySetFile, apiKeyFile, s3SecretFile, databaseFile, certificatesFile}
	case Encoder:
		keys = []string{s3SecretFile, databaseFile}
	case GeoDNS, Edge:
		keys = []string{token.RootPublicFile, s3SecretFile, certificatesFile}
	case Postgres:
		keys = []string{databaseFile}
	case MinIO:
		keys = []string{s3SecretFile}
	}
	for _, k := range keys {
		b, err := os.ReadFile(p.key(k))
		if err != nil {
			return nil, err
		}
		out[k] = b
	}
	if slices.Contains([]string{API, Encoder, GeoDNS, Edge}, component) {
		// An edge needs no NATS.
		b, err := p.tableFor(component != Edge)
		if err != nil {
			return nil, err
		}
		out["regions.yaml"] = b
	}
	if component == GeoDNS || component == Edge {
		out["geo.mmdb"] = p.geoDB
	}
	if component == Edge {
		b, err := os.ReadFile(p.key(token.SessionKeyFile(r.Name)))
		if err != nil {
			return nil, err
		}
		out["session.key"] = b
	}
	return out, p.addStore(r, component, out)
}

// tableFor is the region table with the credentials for NATS, which has them in its URLs.
func (p *provision) tableFor(nats bool) ([]byte, error) {
	t := *p.table
	t.Regions = slices.Clone(t.Regions)
	if nats {
		for i, r := range t.Regions {
			t.Regions[i].NATS = strings.Replace(r.NATS, "://", "://"+natsUser+":"+p.secrets[natsFile]+"@", 1)
		}
	}
	return t.Marshal()
}

// write makes a component's directory hold these files and no others.
func (p *provision) write(dir string, files map[string][]byte) error {
	path := filepath.Join(p.out, dir)
	if err := os.MkdirAll(path, sharedDir); err != nil {
		return err
	}
	for _, d := range []string{filepath.Dir(path), path} {
		if err := os.Chmod(d, sharedDir); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := files[e.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	for name, b := range files {
		if old, err := os.ReadFile(filepath.Join(path, name)); err == nil && bytes.Equal(old, b) {
			continue
		}
		if err := durable.Write(filepath.Join(path, name), b, sharedFile); err != nil {
			return err
		}
	}
	return nil
}
