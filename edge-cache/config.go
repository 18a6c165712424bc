package edgecache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is `meridian edge-cache`.
type Command struct {
	service.Base `embed:""`
	Watchdog     service.Watchdog `embed:""`

	Edge   string `help:"Name of this edge in the region table." required:"" env:"MERIDIAN_EDGE"`
	Listen string `help:"Address of the playback URLs." default:":8082" env:"MERIDIAN_EDGE_LISTEN" placeholder:"HOST:PORT"`

	CacheDir    string `help:"Directory of the disk cache." required:"" env:"MERIDIAN_EDGE_CACHE_DIR" placeholder:"DIR"`
	CacheMemory Size   `help:"Memory for cached objects; an eighth more has copies of those asked for most." default:"256MiB" env:"MERIDIAN_EDGE_CACHE_MEMORY" placeholder:"SIZE"`
	CacheDisk   Size   `help:"Disk for cached objects." default:"2GiB" env:"MERIDIAN_EDGE_CACHE_DISK" placeholder:"SIZE"`

	MaxConnections    int           `help:"Connections open at once; further ones wait to be accepted." default:"20000" env:"MERIDIAN_EDGE_MAX_CONNECTIONS"`
	ClientConnections int           `help:"Connections one client address (IPv6: /64) may have open; further ones are closed. 0: no limit." default:"1024" env:"MERIDIAN_EDGE_CLIENT_CONNECTIONS"`
	ClientFetches     int           `help:"Objects fetched at once because one client address asked first; further ones get 429. 0: no limit." default:"128" env:"MERIDIAN_EDGE_CLIENT_FETCHES"`
	AssetFetches      int           `help:"Objects of one asset fetched at once; further ones get 503. 0: no limit." default:"256" env:"MERIDIAN_EDGE_ASSET_FETCHES"`
	Bandwidth         Size          `help:"Bytes a second this edge can send; they count in the load routers are told. 0: not known." default:"0" env:"MERIDIAN_EDGE_BANDWIDTH" placeholder:"SIZE"`
	Peers             bool          `help:"Ask the region's other edges for what they own before the stores." default:"true" negatable:"" env:"MERIDIAN_EDGE_PEERS"`
	DrainNotice       time.Duration `help:"How long an edge that viewers play from answers on after the stop signal, while routers send them elsewhere." default:"1s" env:"MERIDIAN_EDGE_DRAIN_NOTICE"`
	GeoDatabase       string        `help:"Geo database (mmdb). Without it assets limited to countries are refused." env:"MERIDIAN_GEO_DATABASE" placeholder:"FILE"`
	AccessSample      int           `help:"Log one in so many successful requests, at debug level." default:"1" env:"MERIDIAN_EDGE_ACCESS_SAMPLE"`

	TLS          TLS             `embed:"" prefix:"tls-" envprefix:"MERIDIAN_EDGE_TLS_"`
	Certificates certificate.Key `embed:"" prefix:"certificates-" envprefix:"MERIDIAN_CERTIFICATES_"`

	RootPublicKey service.Secret `help:"Root public key; @FILE reads it from a file." required:"" env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	SessionKey    service.Secret `help:"This region's session signing key; @FILE reads it from a file." required:"" env:"MERIDIAN_SESSION_KEY"`
	S3            objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
}

// Validate names every problem of the configuration.
func (c *Command) Validate() error {
	errs := []error{c.Base.Validate(), c.Watchdog.Validate()}
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if c.Table != nil {
		if _, r, ok := c.Table.Edge(c.Edge); !ok {
			bad("--edge %q: not in %s", c.Edge, c.Regions)
		} else if r.Name != c.Region {
			bad("--edge %q: belongs to region %s, not %s", c.Edge, r.Name, c.Region)
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad("--listen: %w", err)
	}
	if c.CacheMemory < 16<<20 {
		bad("--cache-memory %s: want at least 16MiB", c.CacheMemory)
	}
	if c.CacheDisk < 64<<20 || c.CacheDisk < c.CacheMemory {
		bad("--cache-disk %s: want at least 64MiB, and no less than --cache-memory (%s)", c.CacheDisk, c.CacheMemory)
	}
	if c.CacheDir == "" {
		bad("--cache-dir: want a directory")
	}
	errs = append(errs, validLimits(c.MaxConnections, map[string]int{"--client-connections": c.ClientConnections, "--client-fetches": c.ClientFetches, "--asset-fetches": c.AssetFetches}, c.DrainNotice))
	errs = append(errs, c.Certificates.Validate(), c.TLS.validate(c.Certificates.Key != ""))
	if c.AccessSample < 1 {
		bad("--access-sample %d: want at least 1", c.AccessSample)
	}
	if _, err := token.ParsePublic(c.RootPublicKey.Reveal()); err != nil {
		bad("--root-public-key: %w", err)
	}
	if _, err := token.ParseSigner(c.SessionKey.Reveal()); err != nil {
		bad("--session-key: %w", err)
	}
	return errors.Join(errs...)
}

// validLimits names every problem of what bounds clients; those by flag may be 0.
func validLimits(connections int, byFlag map[string]int, notice time.Duration) error {
	var errs []error
	if connections < 1 {
		errs = append(errs, fmt.Errorf("--max-connections %d: want at least 1", connections))
	}
	for flag, n := range byFlag {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s %d: want 0 or more", flag, n))
		}
	}
	if notice < 0 || notice > time.Minute {
		errs = append(errs, fmt.Errorf("--drain-notice %s: want 0 to 1m", notice))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	return service.Run(ctx, "edge-cache", &c.Base, c.Validate, func(ctx context.Context, rt *service.Runtime) (service.Component, error) {
		return newEdge(c, rt)
	})
}

// Size is a number of bytes, written as "256MiB".
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// UnmarshalText reads a whole number of bytes with an optional unit of KiB to TiB.
func (s *Size) UnmarshalText(b []byte) error {
	digits, factor := string(b), int64(1)
	for _, u := range units {
		if d, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, factor = strings.TrimSpace(d), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return fmt.Errorf("size %q: want a number with KiB, MiB, GiB or TiB", b)
	}
	*s = Size(n * factor)
	return nil
}

// MarshalText writes the size in its largest whole unit.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Size) String() string {
	for i := len(units) - 1; i >= 0; i-- {
		if u := units[i]; s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
