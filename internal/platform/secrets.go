package platform

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

const s3AccessKey = "meridian"

// Files in the secrets directory beside those of internal/token.
const (
	apiKeyFile      = "api.key"
	s3File          = "s3.secret"
	databaseFile    = "postgres.secret"
	superuserFile   = "postgres-superuser.secret"
	replicationFile = "postgres-replication.secret"
)

// secrets are made at the first start and kept.
type secrets struct {
	dir                                          string
	apiKey, s3, database, superuser, replication string
	// tls says that there is a certificate to answer with.
	tls bool
	// backup is nil for none.
	backup *Backup
}

func loadSecrets(dir string, table *region.Table) (*secrets, error) {
	s := &secrets{dir: dir}
	for _, f := range []struct {
		name, prefix string
		value        *string
	}{
		{apiKeyFile, "mk_", &s.apiKey},
		{s3File, "", &s.s3},
		{databaseFile, "", &s.database},
		{superuserFile, "", &s.superuser},
		{replicationFile, "", &s.replication},
	} {
		v, err := durable.Secret(filepath.Join(dir, f.name), f.prefix, "delete it and start with --fresh")
		if err != nil {
			return nil, fmt.Errorf("secrets: %w", diskFull(err, dir))
		}
		*f.value = v
	}
	if err := token.GenerateSecrets(dir, table.Names()); err != nil {
		return nil, err
	}
	_, err := os.Stat(filepath.Join(dir, tlsCertFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	s.tls = err == nil
	if s.backup, err = keptBackup(dir); err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	return s, nil
}

// Files of the development CA and of what it issues.
const (
	caFile      = "ca.crt"
	tlsCertFile = "tls.crt"
	tlsKeyFile  = "tls.key"
)

// issueDevelopment has a development CA, made at first, issue a certificate for
// every address and name of the table; or removes that, which is then not used.
func issueDevelopment(dir string, table *region.Table, wanted bool) error {
	if !wanted {
		err := os.Remove(filepath.Join(dir, tlsCertFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	ca, err := certificate.LoadAuthority(dir, "Meridian development")
	if err != nil {
		return err
	}
	hosts := certificate.Names(table.Zone)
	for _, r := range table.Regions {
		hosts = append(hosts, host(r))
		for _, e := range r.Edges {
			if a := e.Addresses[0].String(); a != host(r) {
				hosts = append(hosts, a)
			}
		}
	}
	// The files it leaves are those of the constants.
	_, _, err = ca.Issue("tls", hosts)
	return err
}

// tlsEnv has a service answer with TLS as well, if there is a certificate.
func (s *secrets) tlsEnv(prefix, listen string) []string {
	if !s.tls {
		return nil
	}
	return []string{prefix + "LISTEN=" + listen, prefix + "CERT=" + filepath.Join(s.dir, tlsCertFile), prefix + "KEY=" + filepath.Join(s.dir, tlsKeyFile)}
}

// ref is how a secret file is handed to a service.
func (s *secrets) ref(file string) string { return "@" + filepath.Join(s.dir, file) }

// writeGeo writes the development geo database, which places loopback clients.
func writeGeo(path string) error {
	var b bytes.Buffer
	if err := geo.BuildDevelopment(&b); err != nil {
		return fmt.Errorf("development geo database: %w", err)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	return durable.Write(path, b.Bytes(), 0o644)
}
