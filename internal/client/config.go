package client

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/service"
)

// Config says which API to use and with which key. Embed it in a command.
type Config struct {
	API    string         `name:"api" help:"URL of the API; several, separated by commas, are tried in turn. Default: the one in ~/.config/meridian/client.yaml." env:"MERIDIAN_API" placeholder:"URL"`
	APIKey service.Secret `name:"api-key" help:"API key; @FILE reads it from a file. Default: the one in ~/.config/meridian/client.yaml." env:"MERIDIAN_API_KEY" placeholder:"KEY"`
}

// File is the content of client.yaml, which `meridian up` writes.
type File struct {
	API    string `yaml:"api"`
	APIKey string `yaml:"api_key"`
}

// FilePath is where client.yaml is: $XDG_CONFIG_HOME/meridian, else ~/.config/meridian.
func FilePath() (string, error) {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("client configuration: %w", err)
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "meridian", "client.yaml"), nil
}

// Write stores f where commands find it, readable by its owner alone.
func (f File) Write(path string) error {
	b, err := yaml.Marshal(f)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = durable.Write(path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("client configuration: %w", err)
	}
	return nil
}

// Client returns a client for the configuration: flags and environment first,
// then client.yaml.
func (c Config) Client() (*Client, error) {
	path, err := FilePath()
	if err != nil {
		return nil, err
	}
	var f File
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("client configuration: %w", err)
	default:
		if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&f); err != nil {
			return nil, fmt.Errorf("%s: want the keys api and api_key: %w", path, err)
		}
	}
	api, key := c.API, c.APIKey.Reveal()
	if api == "" {
		api = f.API
	}
	// A key belongs to its API: the file's isn't sent to another one.
	if key == "" && (c.API == "" || c.API == f.API) {
		key = f.APIKey
	}
	var missing []string
	if api == "" {
		missing = append(missing, "the API's URL: --api or MERIDIAN_API")
	}
	if key == "" {
		missing = append(missing, "an API key: --api-key or MERIDIAN_API_KEY")
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("missing %s (or %s, which `meridian up` writes)", strings.Join(missing, ", and "), path)
	}
	var bases []string
	for v := range strings.SplitSeq(api, ",") {
		v = strings.TrimRight(strings.TrimSpace(v), "/")
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
			return nil, fmt.Errorf("--api %q: want a URL such as http://127.1.0.1:8080", v)
		}
		bases = append(bases, v)
	}
	return New(bases, key), nil
}
