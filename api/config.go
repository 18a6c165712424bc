package api

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"

	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is `meridian api`.
type Command struct {
	service.Base    `embed:""`
	Watchdog        service.Watchdog `embed:""`
	Listen          string           `help:"Address of the HTTP API." default:"127.0.0.1:8080" env:"MERIDIAN_API_LISTEN" placeholder:"HOST:PORT"`
	RootPublicKey   service.Secret   `help:"Public key that signs key sets; @FILE reads it from a file." required:"" env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	RecordKey       service.Secret   `help:"Private key that signs playback records; @FILE." required:"" env:"MERIDIAN_RECORD_KEY"`
	PlaybackKey     service.Secret   `help:"Private key that signs playback tokens; @FILE." required:"" env:"MERIDIAN_PLAYBACK_KEY"`
	KeySet          service.Secret   `help:"Signed key set, published when the platform has none; @FILE." env:"MERIDIAN_KEY_SET"`
	BootstrapAPIKey service.Secret   `name:"bootstrap-api-key" help:"Admin API key made sure to exist for owner \"default\"; @FILE." env:"MERIDIAN_BOOTSTRAP_API_KEY"`
	EventStreams    int              `help:"Event streams served at the same time; one more gets 503 with Retry-After." default:"512" env:"MERIDIAN_EVENT_STREAMS"`
	Upload          upload.Config    `embed:"" prefix:"upload-" envprefix:"MERIDIAN_UPLOAD_"`
	S3              objects.Config   `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
	Postgres        catalog.Config   `embed:"" prefix:"postgres-" envprefix:"MERIDIAN_POSTGRES_"`
	Repair          repair.Config    `embed:"" prefix:"repair-" envprefix:"MERIDIAN_REPAIR_"`

	TLS          certificate.TLS `embed:"" prefix:"tls-" envprefix:"MERIDIAN_API_TLS_"`
	Certificates certificate.Key `embed:"" prefix:"certificates-" envprefix:"MERIDIAN_CERTIFICATES_"`
}

// keys are the parsed signing keys.
type keys struct {
	root             ed25519.PublicKey
	record, playback *token.Signer
	// set is a key set and setN its number, nil when none is configured.
	set  []byte
	setN int64
}

// Validate lists every problem of the configuration.
func (c *Command) Validate() error {
	_, kerr := c.keys()
	errs := []error{c.Base.Validate(), c.Watchdog.Validate(), c.Upload.Validate(), c.Repair.Validate(), kerr,
		c.Certificates.Validate(), c.TLS.Validate(c.Certificates.Key != "")}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("--listen: %w", err))
	}
	if c.EventStreams < 1 {
		errs = append(errs, fmt.Errorf("--event-streams %d: want at least 1", c.EventStreams))
	}
	if c.BootstrapAPIKey != "" && len(c.BootstrapAPIKey) < minBootstrapKey {
		errs = append(errs, fmt.Errorf("--bootstrap-api-key: want %s and at least %d random characters", catalog.KeyPrefix, minBootstrapKey-len(catalog.KeyPrefix)))
	}
	return errors.Join(errs...)
}

const minBootstrapKey = len(catalog.KeyPrefix) + 24

func (c *Command) keys() (keys, error) {
	var k keys
	var errs []error
	root, err := token.ParsePublic(c.RootPublicKey.Reveal())
	if err != nil {
		errs = append(errs, fmt.Errorf("--root-public-key: %w", err))
	}
	k.root = root
	if k.record, err = token.ParseSigner(c.RecordKey.Reveal()); err != nil {
		errs = append(errs, fmt.Errorf("--record-key: %w", err))
	}
	if k.playback, err = token.ParseSigner(c.PlaybackKey.Reveal()); err != nil {
		errs = append(errs, fmt.Errorf("--playback-key: %w", err))
	}
	if c.KeySet != "" && root != nil {
		k.set = []byte(c.KeySet.Reveal())
		ks, err := token.VerifyKeySet(k.set, root)
		if err != nil {
			errs = append(errs, fmt.Errorf("--key-set: %w", err))
		}
		k.setN = ks.N
	}
	return k, errors.Join(errs...)
}

// Run serves the API until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	return service.Run(ctx, "api", &c.Base, c.Validate, c.build)
}
