package platform

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/token"
)

// clientHeader marks a file this program may replace.
const clientHeader = "# Written by meridian up; remove this line to keep the file as it is.\n"

func clientConfigPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no configuration directory; use --client-config: %w", err)
	}
	return filepath.Join(dir, "meridian", "client.yaml"), nil
}

// operatorConfig is a --config file for operators' commands, such as `meridian
// reconcile`.
func (p *plan) operatorConfig() string {
	return fmt.Sprintf("# Written by meridian up, for --config of operators' commands.\nregions: %s\ns3-access-key: %s\ns3-secret-key: %q\npostgres-user: %s\npostgres-password: %q\npostgres-database: %s\nsecrets: %s\nrecord-key: %q\nroot-public-key: %q\n",
		p.state.path("regions.yaml"), s3AccessKey, p.secrets.ref(s3File), dbUser, p.secrets.ref(databaseFile), dbName,
		p.secrets.dir, p.secrets.ref(token.RecordKeyFile), p.secrets.ref(token.RootPublicFile))
}

// writeClientConfig lets the command line find the platform. A file the user has
// written is left alone, and the answer is false.
func writeClientConfig(path, api, key string) (bool, error) {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("client configuration: %w", err)
	}
	if err == nil && !bytes.HasPrefix(old, []byte(clientHeader)) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, fmt.Errorf("client configuration: %w", err)
	}
	text := fmt.Sprintf("%sapi: %s\napi_key: %s\n", clientHeader, api, key)
	if err := durable.Write(path, []byte(text), 0o600); err != nil {
		return false, fmt.Errorf("client configuration: %w", err)
	}
	return true, nil
}
