package geodns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// Commands are `meridian geodns` and what operators do with routers.
type Commands struct {
	Run      Command         `cmd:"" default:"withargs" help:"Run a region's router (what meridian geodns alone does)."`
	Drain    DrainCommand    `cmd:"" help:"Send viewers elsewhere, as long as anything else works."`
	Undrain  DrainCommand    `cmd:"" help:"Send viewers to a region again."`
	Weight   WeightCommand   `cmd:"" help:"Set the share of its viewers a region takes."`
	Override OverrideCommand `cmd:"" help:"Send the viewers of a network or an autonomous system to a region, or no longer."`
	Routing  RoutingCommand  `cmd:"" help:"Show what operators have told the routers."`
	Explain  ExplainCommand  `cmd:"" help:"Show where a viewer is sent, and why."`
	Key      KeyCommand      `cmd:"" help:"Make a key that signs the zone, and show what its parent needs."`
}

// Operator is what changing the routing takes: a record key, and a router that
// writes the entry or the object stores themselves. Neither Postgres nor NATS, so
// that a region can be drained without them.
type Operator struct {
	Router        string         `help:"URL of a router that writes the change; without one it goes straight to the object stores." env:"MERIDIAN_ROUTER" placeholder:"URL"`
	RecordKey     service.Secret `help:"Private key that signs records; @FILE." required:"" env:"MERIDIAN_RECORD_KEY"`
	Regions       string         `help:"Region table (YAML); without --router." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	RootPublicKey service.Secret `help:"Root public key; @FILE; without --router." env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	S3            operatorStores `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
}

// operatorStores is objects.Config for those who may go without: a router that is
// asked to write has the keys.
type operatorStores struct {
	AccessKey service.Secret `help:"S3 access key; without --router." env:"ACCESS_KEY"`
	SecretKey service.Secret `help:"S3 secret key; @FILE; without --router." env:"SECRET_KEY"`
	Bucket    string         `help:"S3 bucket; without --router." default:"meridian" env:"BUCKET"`
}

// operatorTimeout bounds one command.
const operatorTimeout = 30 * time.Second

// change writes the next routing entry and shows it.
func (o *Operator) change(ctx context.Context, out io.Writer, change func(*journal.Routing) error) error {
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	signer, err := token.ParseSigner(o.RecordKey.Reveal())
	if err != nil {
		return fmt.Errorf("--record-key: %w", err)
	}
	if o.Router != "" {
		return asker{Router: o.Router}.change(ctx, out, signer, change)
	}
	root, rerr := token.ParsePublic(o.RootPublicKey.Reveal())
	if rerr != nil {
		rerr = fmt.Errorf("--root-public-key: %w", rerr)
	}
	table, terr := region.Load(o.Regions)
	var serr error
	if o.S3.AccessKey == "" || o.S3.SecretKey == "" {
		serr = errors.New("--s3-access-key, --s3-secret-key: want both")
	}
	if err := errors.Join(rerr, terr, serr); err != nil {
		return fmt.Errorf("without --router: %w", err)
	}
	store, err := objects.New(table, table.Regions[0].Name, objects.Config(o.S3), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	ks, err := journal.NewestKeys(ctx, store, root)
	if err != nil {
		return err
	}
	r, err := journal.ChangeRouting(ctx, store, ks, signer, func(r *journal.Routing) error {
		before := regionsOf(*r)
		return errors.Join(change(r), knownRegions(table, *r, before))
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, routingText(table.Names(), r))
	return err
}

// edit changes one region of an entry.
func edit(r *journal.Routing, name string, change func(*journal.RegionRouting)) error {
	if r.Regions == nil {
		r.Regions = map[string]journal.RegionRouting{}
	}
	g := r.Regions[name]
	change(&g)
	r.Regions[name] = g
	if g == (journal.RegionRouting{}) {
		delete(r.Regions, name)
	}
	return nil
}

// DrainCommand takes a region out of service, or into it again.
type DrainCommand struct {
	Operator   `embed:""`
	RegionName string `arg:"" name:"region" help:"Region."`
}

// Run drains or undrains the region, as the command is called.
func (c *DrainCommand) Run(ctx context.Context, k *kong.Context) error {
	return c.change(ctx, os.Stdout, func(r *journal.Routing) error {
		return edit(r, c.RegionName, func(g *journal.RegionRouting) { g.Drained = k.Selected().Name == "drain" })
	})
}

// WeightCommand sets a region's weight.
type WeightCommand struct {
	Operator   `embed:""`
	RegionName string  `arg:"" name:"region" help:"Region."`
	Weight     float64 `arg:"" help:"Share of its viewers the region takes, 0 to 1; 0 takes it out of service. Above 1: it goes first among regions equally far away."`
}

// Run sets the weight.
func (c *WeightCommand) Run(ctx context.Context) error {
	return c.change(ctx, os.Stdout, func(r *journal.Routing) error {
		return edit(r, c.RegionName, func(g *journal.RegionRouting) {
			if g.Weight = &c.Weight; c.Weight == 1 {
				g.Weight = nil
			}
		})
	})
}

// OverrideCommand sends a network or an autonomous system to a region.
type OverrideCommand struct {
	Operator   `embed:""`
	Network    string `arg:"" help:"Network (192.0.2.0/24), or autonomous system (AS64500) if routers have an ASN database."`
	RegionName string `arg:"" name:"region" optional:"" help:"Region its viewers go to; none ends the override."`
}

// Run sets or ends the override.
func (c *OverrideCommand) Run(ctx context.Context) error {
	if n, err := geo.ParseAS(c.Network); err == nil {
		return c.change(ctx, os.Stdout, func(r *journal.Routing) error { return overrideSystem(r, n, c.RegionName) })
	}
	network, err := netip.ParsePrefix(c.Network)
	if err != nil {
		return fmt.Errorf("network %q: want 192.0.2.0/24 or AS64500", c.Network)
	}
	return c.change(ctx, os.Stdout, func(r *journal.Routing) error { return override(r, network.Masked(), c.RegionName) })
}

func override(r *journal.Routing, network netip.Prefix, name string) error {
	had := len(r.Overrides)
	r.Overrides = slices.DeleteFunc(r.Overrides, func(o journal.RoutingOverride) bool { return o.Network == network })
	if name == "" {
		if len(r.Overrides) == had {
			return fmt.Errorf("override %s: there is none", network)
		}
		return nil
	}
	r.Overrides = append(r.Overrides, journal.RoutingOverride{Network: network, Region: name})
	return nil
}

func overrideSystem(r *journal.Routing, n geo.AS, name string) error {
	had := len(r.Systems)
	r.Systems = slices.DeleteFunc(r.Systems, func(o journal.SystemOverride) bool { return geo.AS(o.AS) == n })
	if name == "" {
		if len(r.Systems) == had {
			return fmt.Errorf("override %s: there is none", n)
		}
		return nil
	}
	r.Systems = append(r.Systems, journal.SystemOverride{AS: uint32(n), Region: name})
	return nil
}

// KeyCommand makes a key for DNSSEC.
type KeyCommand struct {
	Zone string `arg:"" help:"The zone: play.example.org."`
	File string `arg:"" help:"File the private key is written to; it must not be there yet." type:"path"`
}

// Run makes the key and prints the zone's DS and DNSKEY records.
func (c *KeyCommand) Run(context.Context) error {
	if _, ok := dns.IsDomainName(c.Zone); !ok {
		return errors.New("zone " + strconv.Quote(c.Zone) + ": want a domain name")
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	s, err := newSigner(c.Zone, key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n%s\n", s.key.ToDS(dns.SHA256), s.key)
	return err
}
