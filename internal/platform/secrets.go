package platform

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
		v, err := ensureSecret(filepath.Join(dir, f.name), f.prefix)
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

func ensureSecret(path, prefix string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		v := strings.TrimSpace(string(b))
		if v == "" {
			return "", fmt.Errorf("%s is empty; delete it and start with --fresh", path)
		}
		return v, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	v := prefix + strings.ToLower(rand.Text()+rand.Text())
	return v, writeAtomic(path, []byte(v+"\n"), 0o600)
}

// writeAtomic never leaves half a file under the name, also when power fails.
func writeAtomic(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeGeo writes the development geo database, which places loopback clients.
func writeGeo(path string) error {
	var b bytes.Buffer
	if err := geo.BuildDevelopment(&b); err != nil {
		return fmt.Errorf("development geo database: %w", err)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	return writeAtomic(path, b.Bytes(), 0o644)
}
