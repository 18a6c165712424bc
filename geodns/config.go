package geodns

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is the configuration of `meridian geodns`.
type Command struct {
	service.Base `embed:""`

	RouterListen   string         `help:"Address of redirects, steering and player pages." default:"127.0.0.1:8081" env:"MERIDIAN_ROUTER_LISTEN" placeholder:"HOST:PORT"`
	DNSListen      []string       `name:"dns-listen" help:"Addresses of the name server, UDP and TCP." default:"127.0.0.1:5353" env:"MERIDIAN_DNS_LISTEN" placeholder:"HOST:PORT"`
	GeoDatabase    string         `help:"City database (mmdb); empty: every location is unknown. Read again when it changes." env:"MERIDIAN_GEO_DATABASE" placeholder:"FILE"`
	GeoReload      time.Duration  `help:"How often to look for a changed geo database." default:"5s" env:"MERIDIAN_GEO_RELOAD"`
	TrustedProxies []string       `help:"Networks whose X-Forwarded-For is believed." env:"MERIDIAN_TRUSTED_PROXIES" placeholder:"CIDR"`
	RootPublicKey  service.Secret `help:"Root public key; @FILE reads it from a file." required:"" env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	SteerCapacity  int            `help:"Steering requests a second from which on players are told to ask less often." default:"2000" env:"MERIDIAN_STEER_CAPACITY"`
	MaxConnections int            `help:"Connections served at once, by HTTP and by each DNS listener over TCP." default:"8192" env:"MERIDIAN_ROUTER_MAX_CONNECTIONS"`
	S3             objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`

	root    ed25519.PublicKey
	proxies []netip.Prefix
}

// Validate lists every problem of the configuration.
func (c *Command) Validate() error {
	errs := []error{c.Base.Validate()}
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if _, _, err := net.SplitHostPort(c.RouterListen); err != nil {
		bad("--router-listen: %w", err)
	}
	if len(c.DNSListen) == 0 {
		bad("--dns-listen: want at least one address")
	}
	for _, l := range c.DNSListen {
		host, _, err := net.SplitHostPort(l)
		if err != nil {
			bad("--dns-listen: %w", err)
		} else if _, err := netip.ParseAddr(host); err != nil && host != "" {
			bad("--dns-listen %s: want a literal address", l)
		}
	}
	c.proxies = nil
	for _, p := range c.TrustedProxies {
		n, err := netip.ParsePrefix(p)
		if err != nil {
			bad("--trusted-proxies: %w", err)
			continue
		}
		c.proxies = append(c.proxies, n.Masked())
	}
	var err error
	if c.root, err = token.ParsePublic(c.RootPublicKey.Reveal()); err != nil {
		bad("--root-public-key: %w", err)
	}
	if c.GeoReload < 100*time.Millisecond {
		bad("--geo-reload %v: want at least 100ms", c.GeoReload)
	}
	if c.SteerCapacity < 1 {
		bad("--steer-capacity %d: want a positive number", c.SteerCapacity)
	}
	if c.MaxConnections < 16 {
		bad("--max-connections %d: want at least 16", c.MaxConnections)
	}
	if c.Table != nil {
		for _, r := range geo.NewSnapshot(c.Table).Regions {
			if !r.NameServer.IsValid() || !r.RouterAddress.IsValid() {
				bad("region %s: router.dns: want a literal address and port, the name server answers with it", r.Name)
			}
		}
	}
	return errors.Join(errs...)
}

// Run runs the router until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	return service.Run(ctx, "geodns", &c.Base, c.Validate, func(_ context.Context, rt *service.Runtime) (service.Component, error) {
		return newServer(c, rt)
	})
}
