package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"

	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

// The servers' names on the command line.
const (
	nameGdnsd    = "gdnsd"
	nameKnot     = "Knot"
	nameMeridian = "Meridian"
	nameBare     = "bare"
	nameBefore   = "before"
)

var serverNames = []string{nameGdnsd, nameKnot, nameMeridian, nameBare}

const (
	zone         = "meridian.test"
	qname        = "play." + zone
	startTimeout = 30 * time.Second
)

// subnets of the clients, in the geo database: London, Milton, Changchun, and one
// that isn't there.
var subnets = []string{"81.2.69.142", "216.160.83.56", "175.16.199.1", "192.0.2.1"}

type bench struct {
	options
	dir     string
	servers []*server
	stops   []func()
}

// server is one who takes part.
type server struct {
	name    string
	addr    string
	pid     int
	log     string
	results []result
}

func (b *bench) stop() {
	for i := len(b.stops) - 1; i >= 0; i-- {
		b.stops[i]()
	}
}

func (b *bench) start(ctx context.Context, name string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &server{name: name, addr: addr, log: filepath.Join(b.dir, name+".log")}
	var env, args []string
	switch name {
	case nameGdnsd:
		args, err = b.gdnsd(addr)
	case nameKnot:
		args, err = b.knot(addr)
	case nameMeridian:
		env, args, err = b.meridian(ctx, addr, b.binary)
	case nameBefore:
		env, args, err = b.meridian(ctx, addr, b.before)
	case nameBare:
		var self string
		self, err = os.Executable()
		args = []string{self, "-bare", addr}
	default:
		err = fmt.Errorf("want some of %v", serverNames)
	}
	if err != nil {
		return nil, err
	}
	if s.pid, err = b.process(name, env, args); err != nil {
		return nil, err
	}
	return s, nil
}

// process runs a server until the end, its output in a file.
func (b *bench) process(name string, env, args []string) (int, error) {
	out, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	c := exec.Command(args[0], args[1:]...)
	c.Env, c.Dir = append(os.Environ(), env...), b.dir
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return 0, err
	}
	b.stops = append(b.stops, func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	return c.Process.Pid, nil
}

// freeAddr is a loopback address whose port is free for UDP and TCP.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

const gdnsdConfig = `options => { listen => "%s", udp_threads => 2, run_dir => "%s", state_dir => "%s", edns_client_subnet => true }
plugins => { geoip => {
  maps => { m => { geoip2_db => "%s", datacenters => [eu, us, ap],
    auto_dc_coords => { eu => [50.11, 8.68], us => [39.04, -77.49], ap => [1.35, 103.82] } } }
  resources => { play => { map => m, service_types => up, dcmap => { eu => 127.1.0.1, us => 127.2.0.1, ap => 127.3.0.1 } } }
} }
`

const gdnsdZone = `@ SOA ns1 hostmaster 1 3600 600 86400 5
@ NS ns1
ns1 A 127.0.0.1
play 5 DYNA geoip!play
`

func (b *bench) gdnsd(addr string) ([]string, error) {
	dir := filepath.Join(b.dir, "gdnsd")
	db, err := filepath.Abs(b.database)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"zones", "run", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	cfg := fmt.Sprintf(gdnsdConfig, addr, filepath.Join(dir, "run"), filepath.Join(dir, "state"), db)
	err = errors.Join(os.WriteFile(filepath.Join(dir, "config"), []byte(cfg), 0o600),
		os.WriteFile(filepath.Join(dir, "zones", zone), []byte(gdnsdZone), 0o600))
	return []string{"gdnsd", "-c", dir, "start"}, err
}

const knotConfig = `server:
    listen: %s@%s
    rundir: %[3]q
    udp-workers: 2
    tcp-workers: 1
    background-workers: 1
    edns-client-subnet: on
log:
  - target: stderr
    any: warning
database:
    storage: %[3]q
mod-geoip:
  - id: geo
    config-file: %[4]q
    ttl: 5
    mode: geodb
    geodb-file: %[5]q
    geodb-key: country/iso_code
zone:
  - domain: %[6]s
    file: %[7]q
    module: mod-geoip/geo
`

// Knot's module chooses by what a database record says, not by distance.
const knotGeo = `play.%s:
  - geo: GB
    A: 127.1.0.1
  - geo: US
    A: 127.2.0.1
  - geo: CN
    A: 127.3.0.1
`

const knotZone = `$ORIGIN %s.
@ 300 SOA ns1 hostmaster 1 3600 600 86400 5
@ 300 NS ns1
ns1 300 A 127.0.0.1
play 5 A 127.1.0.1
`

func (b *bench) knot(addr string) ([]string, error) {
	dir := filepath.Join(b.dir, "knot")
	db, err := filepath.Abs(b.database)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	conf, geo, zoneFile := filepath.Join(dir, "knot.conf"), filepath.Join(dir, "geo.conf"), filepath.Join(dir, "zone")
	err = errors.Join(
		os.WriteFile(conf, fmt.Appendf(nil, knotConfig, host, port, dir, geo, db, zone, zoneFile), 0o600),
		os.WriteFile(geo, fmt.Appendf(nil, knotGeo, zone), 0o600),
		os.WriteFile(zoneFile, fmt.Appendf(nil, knotZone, zone), 0o600))
	return []string{"knotd", "-c", conf}, err
}

// meridian runs a router of a platform whose edges and routers all answer.
func (b *bench) meridian(ctx context.Context, addr, bin string) (env, args []string, err error) {
	if bin == "" {
		bin = filepath.Join(b.dir, "meridian")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("build: %w: %s", err, out)
		}
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, nil, err
	}
	body := make([]byte, 64<<10)
	t, err := region.Loopback()
	if err != nil {
		return nil, nil, err
	}
	for i := range t.Regions {
		r := &t.Regions[i]
		// Every region has a router's address of its own, as the peer's data centres do.
		l, err := net.Listen("tcp", r.Edges[0].Addresses[0].String()+":0")
		if err != nil {
			return nil, nil, err
		}
		healthy := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })}}
		healthy.Start()
		b.stops = append(b.stops, healthy.Close)
		r.Router.URL, r.S3, r.NATS = healthy.URL, "http://127.0.0.1:1", "nats://127.0.0.1:1"
		r.Edges = r.Edges[:1]
		r.Edges[0].URL = healthy.URL
	}
	raw, err := t.Marshal()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "meridian-")
	if err != nil {
		return nil, nil, err
	}
	secrets, regions := filepath.Join(dir, "secrets"), filepath.Join(dir, "regions.yaml")
	db, err := filepath.Abs(b.database)
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(os.WriteFile(regions, raw, 0o600), token.GenerateSecrets(secrets, []string{"eu", "us", "ap"}))
	return []string{
		"MERIDIAN_REGIONS=" + regions, "MERIDIAN_REGION=eu", "MERIDIAN_ROUTER_LISTEN=127.0.0.1:0", "MERIDIAN_ADMIN_LISTEN=127.0.0.1:0",
		"MERIDIAN_DNS_LISTEN=" + addr, "MERIDIAN_GEO_DATABASE=" + db,
		// Limits that count and never bind, as dnsperf is one client network.
		"MERIDIAN_DNS_RATE=10000000", "MERIDIAN_DNS_LARGE_RATE=10000000",
		"MERIDIAN_ROOT_PUBLIC_KEY=@" + filepath.Join(secrets, token.RootPublicFile),
		"MERIDIAN_S3_ACCESS_KEY=none", "MERIDIAN_S3_SECRET_KEY=none-at-all",
	}, []string{bin, "geodns"}, err
}

// check waits until the server answers, and well: somewhere else for each subnet.
func (s *server) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no good answer: %w; its log: %s", err, s.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of the server's log.
func (s *server) tail() []byte {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-2000):]
}

func (s *server) ask(ctx context.Context) error {
	for i, want := range []string{"127.1.0.1", "127.2.0.1", "127.3.0.1"} {
		r, _, err := (&dns.Client{Timeout: time.Second}).ExchangeContext(ctx, query(net.ParseIP(subnets[i])), s.addr)
		if err != nil {
			return err
		}
		if s.name == nameBare {
			return nil
		}
		if a, ok := first(r); !ok || a != want {
			return fmt.Errorf("%s goes to %q, not %s", subnets[i], a, want)
		}
	}
	return nil
}

// query asks what dnsperf asks.
func query(subnet net.IP) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(qname+".", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: subnet}}
	return m
}

func first(r *dns.Msg) (string, bool) {
	if len(r.Answer) == 0 {
		return "", false
	}
	a, ok := r.Answer[0].(*dns.A)
	if !ok {
		return "", false
	}
	return a.A.String(), true
}
