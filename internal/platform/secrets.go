package platform

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

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
	return s, nil
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
