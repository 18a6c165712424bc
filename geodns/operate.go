package geodns

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

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
	Undrain  UndrainCommand  `cmd:"" help:"Send viewers to a region again."`
	Weight   WeightCommand   `cmd:"" help:"Set the share of its viewers a region takes."`
	Override OverrideCommand `cmd:"" help:"Send a network's viewers to a region, or no longer."`
	Routing  RoutingCommand  `cmd:"" help:"Show what operators have told the routers."`
	Explain  ExplainCommand  `cmd:"" help:"Show where a viewer is sent, and why."`
	Key      KeyCommand      `cmd:"" help:"Make a key that signs the zone, and show what its parent needs."`
}

// Operator is what changing the routing takes: the object stores and a record
// key. Neither Postgres nor NATS, so that a region can be drained without them.
type Operator struct {
	Regions       string         `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	RootPublicKey service.Secret `help:"Root public key; @FILE." required:"" env:"MERIDIAN_ROOT_PUBLIC_KEY"`
	RecordKey     service.Secret `help:"Private key that signs records; @FILE." required:"" env:"MERIDIAN_RECORD_KEY"`
	S3            objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
}

// operatorTimeout bounds one command.
const operatorTimeout = 30 * time.Second

// change writes the next routing entry and shows it.
func (o *Operator) change(ctx context.Context, out io.Writer, change func(*region.Table, *journal.Routing) error) error {
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	table, err := region.Load(o.Regions)
	if err != nil {
		return err
	}
	root, rerr := token.ParsePublic(o.RootPublicKey.Reveal())
	signer, serr := token.ParseSigner(o.RecordKey.Reveal())
	if err := errors.Join(rerr, serr); err != nil {
		return err
	}
	store, err := objects.New(table, table.Regions[0].Name, o.S3, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	ks, err := newestKeys(ctx, store, root)
	if err != nil {
		return err
	}
	r, err := journal.ChangeRouting(ctx, store, ks, signer, func(r *journal.Routing) error { return change(table, r) })
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, routingText(table, r))
	return err
}

func newestKeys(ctx context.Context, store *objects.Store, root ed25519.PublicKey) (*token.KeySet, error) {
	n, err := journal.Newest(ctx, store, objects.KeysJournal)
	if err != nil {
		return nil, err
	}
	b, err := journal.Read(ctx, store, objects.KeysJournal, n)
	if err != nil {
		return nil, err
	}
	ks, err := token.VerifyKeySet(b, root)
	return &ks, err
}

// edit changes one region of an entry.
func edit(t *region.Table, r *journal.Routing, name string, change func(*journal.RegionRouting)) error {
	if _, ok := t.Get(name); !ok {
		return fmt.Errorf("region %q: not in the region table (has %v)", name, t.Names())
	}
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

// routingText is one line for each region and override.
func routingText(t *region.Table, r journal.Routing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "routing %d\n", r.N)
	for _, g := range t.Regions {
		s := r.Regions[g.Name]
		state, weight := "in service", 1.0
		if s.Drained {
			state = "drained"
		}
		if s.Weight != nil {
			weight = *s.Weight
		}
		fmt.Fprintf(&b, "%s  %s  weight %g\n", g.Name, state, weight)
	}
	for _, o := range r.Overrides {
		fmt.Fprintf(&b, "%s  to %s\n", o.Network, o.Region)
	}
	return b.String()
}

// DrainCommand takes a region out of service.
type DrainCommand struct {
	Operator   `embed:""`
	RegionName string `arg:"" name:"region" help:"Region to drain."`
}

// Run drains the region.
func (c *DrainCommand) Run(ctx context.Context) error {
	return c.change(ctx, os.Stdout, func(t *region.Table, r *journal.Routing) error {
		return edit(t, r, c.RegionName, func(g *journal.RegionRouting) { g.Drained = true })
	})
}

// UndrainCommand takes a region into service.
type UndrainCommand struct {
	Operator   `embed:""`
	RegionName string `arg:"" name:"region" help:"Region to send viewers to again."`
}

// Run undrains the region.
func (c *UndrainCommand) Run(ctx context.Context) error {
	return c.change(ctx, os.Stdout, func(t *region.Table, r *journal.Routing) error {
		return edit(t, r, c.RegionName, func(g *journal.RegionRouting) { g.Drained = false })
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
	return c.change(ctx, os.Stdout, func(t *region.Table, r *journal.Routing) error {
		return edit(t, r, c.RegionName, func(g *journal.RegionRouting) {
			if g.Weight = &c.Weight; c.Weight == 1 {
				g.Weight = nil
			}
		})
	})
}

// OverrideCommand sends a network to a region.
type OverrideCommand struct {
	Operator   `embed:""`
	Network    string `arg:"" help:"Network: 192.0.2.0/24."`
	RegionName string `arg:"" name:"region" optional:"" help:"Region its viewers go to; none ends the override."`
}

// Run sets or ends the override.
func (c *OverrideCommand) Run(ctx context.Context) error {
	network, err := netip.ParsePrefix(c.Network)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return c.change(ctx, os.Stdout, func(t *region.Table, r *journal.Routing) error { return override(t, r, network.Masked(), c.RegionName) })
}

func override(t *region.Table, r *journal.Routing, network netip.Prefix, name string) error {
	had := len(r.Overrides)
	r.Overrides = slices.DeleteFunc(r.Overrides, func(o journal.RoutingOverride) bool { return o.Network == network })
	if name == "" {
		if len(r.Overrides) == had {
			return fmt.Errorf("override %s: there is none", network)
		}
		return nil
	}
	if _, ok := t.Get(name); !ok {
		return fmt.Errorf("region %q: not in the region table (has %v)", name, t.Names())
	}
	r.Overrides = append(r.Overrides, journal.RoutingOverride{Network: network, Region: name})
	return nil
}

// asker asks a router.
type asker struct {
	Router string `help:"URL of the router to ask." default:"http://127.1.0.1:8081" env:"MERIDIAN_ROUTER" placeholder:"URL"`
}

const maxExplanation = 1 << 20

func (a asker) get(ctx context.Context, path string, q url.Values, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(a.Router, "/")+path+"?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("--router: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxExplanation))
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var p struct {
			Detail string `json:"detail"`
		}
		if json.Unmarshal(b, &p) != nil || p.Detail == "" {
			p.Detail = res.Status
		}
		return fmt.Errorf("router: %s", p.Detail)
	}
	_, err = out.Write(b)
	return err
}

// ExplainCommand asks a router where a viewer is sent.
type ExplainCommand struct {
	asker `embed:""`
	IP    string `arg:"" help:"The viewer's address."`
	Asset string `help:"For this asset, with its placement." placeholder:"ID"`
	All   bool   `help:"Every region and edge on a line of its own."`
	JSON  bool   `name:"json" help:"For programs."`
}

// Run prints the explanation.
func (c *ExplainCommand) Run(ctx context.Context) error {
	q := url.Values{"ip": {c.IP}, "format": {"line"}}
	if c.Asset != "" {
		q.Set("asset", c.Asset)
	}
	if c.All {
		q.Set("format", "text")
	}
	if c.JSON {
		q.Set("format", "json")
	}
	return c.get(ctx, "/explain", q, os.Stdout)
}

// RoutingCommand asks a router what operators have told it.
type RoutingCommand struct {
	asker `embed:""`
}

// Run prints the routing the router obeys.
func (c *RoutingCommand) Run(ctx context.Context) error {
	return c.get(ctx, "/routing", url.Values{}, os.Stdout)
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
