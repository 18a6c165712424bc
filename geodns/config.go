package geodns

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/certificate/order"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// Command is the configuration of `meridian geodns`.
type Command struct {
	service.Base `embed:""`
	Watchdog     service.Watchdog `embed:""`

	RouterListen   string         `help:"Address of redirects, steering and player pages." default:"127.0.0.1:8081" env:"MERIDIAN_ROUTER_LISTEN" placeholder:"HOST:PORT"`
	DNSListen      []string       `name:"dns-listen" help:"Addresses of the name server, UDP and TCP." default:"127.0.0.1:5353" env:"MERIDIAN_DNS_LISTEN" placeholder:"HOST:PORT"`
	GeoDatabase    string         `help:"City database (mmdb); empty: every location is unknown. Read again when it changes." env:"MERIDIAN_GEO_DATABASE" placeholder:"FILE"`
	ASNDatabase    string         `name:"asn-database" help:"ASN database (mmdb), for overrides of autonomous systems; empty: none. Read again when it changes." env:"MERIDIAN_ASN_DATABASE" placeholder:"FILE"`
	GeoReload      time.Duration  `help:"How often to look for a changed geo or ASN database." default:"5s" env:"MERIDIAN_GEO_RELOAD"`
	TrustedProxies []string       `help:"Networks whose X-Forwarded-For is believed." env:"MERIDIAN_TRUSTED_PROXIES" placeholder:"CIDR"`
	RootPublicKey  service.Secret `help:"Root public key; @FILE reads it from a file." required:"" env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	SteerCapacity  int            `help:"Steering requests a second from which on players are told to ask less often." default:"2000" env:"MERIDIAN_STEER_CAPACITY"`
	MaxConnections int            `help:"Connections served at once, by HTTP and by each DNS listener over TCP." default:"8192" env:"MERIDIAN_ROUTER_MAX_CONNECTIONS"`
	DNSSECKey      service.Secret `name:"dnssec-key" help:"Key that signs the zone, the same at all its routers, in PEM; @FILE reads it from a file. Empty: the zone is not signed. See meridian geodns key." env:"MERIDIAN_DNSSEC_KEY"`
	DNSRate        int            `name:"dns-rate" help:"UDP answers a second to a network (IPv4 /24, IPv6 /56) whose address no cookie proves; 0: no limit." default:"5000" env:"MERIDIAN_DNS_RATE"`
	DNSLargeRate   int            `name:"dns-large-rate" help:"Those among them more than three times as large as their query, to addresses that asked over TCP within the hour; others get them truncated. 0: no limit, to anyone; -1: none." default:"50" env:"MERIDIAN_DNS_LARGE_RATE"`
	OverflowKm     float64        `name:"overflow-km" help:"How far from a viewer a region may be for another to leave the viewer to it, or from that other one where the viewer's place is unknown; 0: any distance." default:"0" env:"MERIDIAN_OVERFLOW_KM"`
	S3             objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`

	TLS          certificate.TLS `embed:"" prefix:"tls-" envprefix:"MERIDIAN_ROUTER_TLS_"`
	Certificates certificate.Key `embed:"" prefix:"certificates-" envprefix:"MERIDIAN_CERTIFICATES_"`
	ACME         order.Config    `embed:"" prefix:"acme-" envprefix:"MERIDIAN_ACME_"`

	root    ed25519.PublicKey
	proxies []netip.Prefix
}

// Validate lists every problem of the configuration.
func (c *Command) Validate() error {
	errs := []error{c.Base.Validate(), c.Watchdog.Validate()}
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
	if c.DNSRate < 0 {
		bad("--dns-rate %d: want 0 or more", c.DNSRate)
	}
	if c.OverflowKm < 0 {
		bad("--overflow-km %v: want no negative number", c.OverflowKm)
	}
	shared := c.Certificates.Key != ""
	errs = append(errs, c.Certificates.Validate(), c.TLS.Validate(shared), c.ACME.Validate(shared))
	if c.Table != nil {
		if _, err := c.zone(geo.NewBoard(geo.NewSnapshot(c.Table)), nil); err != nil {
			errs = append(errs, err)
		}
		for _, r := range geo.NewSnapshot(c.Table).Regions {
			if !r.NameServer.IsValid() || !r.RouterAddress.IsValid() {
				bad("region %s: router.dns: want a literal address and port, the name server answers with it", r.Name)
			}
		}
	}
	return errors.Join(errs...)
}

// zone returns the zone that answers from board.
func (c *Command) zone(board *geo.Board, m *metrics) (*zone, error) {
	opt := zoneOptions{limits: limits{answers: c.DNSRate, large: c.DNSLargeRate}}
	var err, kerr error
	opt.records, err = parseRecords(c.Table.Zone, c.Table.Records)
	if key := c.DNSSECKey.Reveal(); key != "" {
		if opt.signer, kerr = newSigner(c.Table.Zone, key); kerr != nil {
			kerr = fmt.Errorf("--dnssec-key: %w", kerr)
		}
	}
	if err = errors.Join(err, kerr); err != nil {
		return nil, err
	}
	return newZone(c.Table.Zone, board, m, opt)
}

// Run runs the router until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	return service.Run(ctx, "geodns", &c.Base, c.Validate, func(_ context.Context, rt *service.Runtime) (service.Component, error) {
		return newServer(c, rt)
	})
}
