package tools

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// Tool is a program built from pinned sources.
type Tool struct {
	// Name of the program and of its module's directory.
	Name string
	// Package is the import path of its main package.
	Package string
	// Module and Version are what its go.mod requires.
	Module, Version string
	// For says who needs it.
	For Use
}

// Use of a tool: the make target that builds it.
type Use string

// The uses.
const (
	Running    Use = "tools"
	Developing Use = "tools-develop"
	// LongTests only: it takes as long to build as all others.
	LongTests Use = "tools-long"
)

// All returns the tools in the order they are built.
func All() []Tool {
	return []Tool{
		{Name: "nats-server", Package: "github.com/nats-io/nats-server/v2",
			Module: "github.com/nats-io/nats-server/v2", Version: "v2.15.2", For: Running},
		{Name: "minio", Package: "github.com/minio/minio",
			Module: "github.com/minio/minio", Version: "v0.0.0-20260212201848-7aac2a2c5b7c", For: Running},
		{Name: "sqlc", Package: "github.com/sqlc-dev/sqlc/cmd/sqlc",
			Module: "github.com/sqlc-dev/sqlc", Version: "v1.31.1", For: Developing},
		{Name: "staticcheck", Package: "honnef.co/go/tools/cmd/staticcheck",
			Module: "honnef.co/go/tools", Version: "v0.8.2", For: Developing},
		{Name: "compose", Package: "github.com/docker/compose/v2/cmd",
			Module: "github.com/docker/compose/v2", Version: "v2.40.3", For: Developing},
		{Name: "pebble", Package: "github.com/letsencrypt/pebble/v2/cmd/pebble",
			Module: "github.com/letsencrypt/pebble/v2", Version: "v2.10.1", For: Developing},
		{Name: "h2spec", Package: "github.com/summerwind/h2spec/cmd/h2spec",
			Module: "github.com/summerwind/h2spec", Version: "v2.2.1+incompatible", For: Developing},
		{Name: "tofu", Package: "github.com/opentofu/opentofu/cmd/tofu",
			Module: "github.com/opentofu/opentofu", Version: "v1.12.6", For: LongTests},
	}
}

// ErrMissing is matched by every error about a program that isn't there.
var ErrMissing = errors.New("program is missing")

// CacheDir is where built programs lie: $MERIDIAN_CACHE, or meridian in the
// user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("MERIDIAN_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory (set MERIDIAN_CACHE): %w", err)
	}
	return filepath.Join(dir, "meridian"), nil
}

// Target is the file a tool is built to.
func (t Tool) Target() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "bin", t.Name+"@"+t.Version), nil
}

// Path returns the built program of the given name.
func Path(name string) (string, error) {
	for _, t := range All() {
		if t.Name != name {
			continue
		}
		path, err := t.Target()
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w: %s %s is not in the cache (%s); run `make %s`", ErrMissing, name, t.Version, path, t.For)
		}
		return path, nil
	}
	return "", fmt.Errorf("no tool is named %q", name)
}

// System returns a program of the distribution, found in $PATH.
func System(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not installed; run `make install`", ErrMissing, name)
	}
	return path, nil
}

// MinPostgres is the oldest PostgreSQL the platform runs on.
const MinPostgres = 15

// PostgresBin returns the directory of PostgreSQL's server programs and its
// major version: the newest installed one that is new enough. Debian keeps them
// out of $PATH.
func PostgresBin() (dir string, major int, err error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", 0, err
	}
	for _, d := range dirs {
		v, err := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		if err != nil || v < MinPostgres || v <= major {
			continue
		}
		if _, err := os.Stat(filepath.Join(d, "postgres")); err == nil {
			dir, major = d, v
		}
	}
	if dir == "" {
		return "", 0, fmt.Errorf("%w: PostgreSQL %d or newer is not installed; run `make install`", ErrMissing, MinPostgres)
	}
	return dir, major, nil
}
