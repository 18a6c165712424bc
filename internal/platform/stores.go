package platform

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/meridian-video/meridian/internal/natshealth"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/tools"
)

// Names of the processes of a region.
const (
	procEtcd     = "etcd"
	procPostgres = "postgres"
	procNATS     = "nats"
	procMinIO    = "minio"
)

// plan makes the process specifications of all regions.
type plan struct {
	table   *region.Table
	state   *state
	secrets *secrets
	exe     string
	env     []string // of all services
}

// host is the region's own address, at which all its stores listen.
func host(r region.Region) string {
	u, err := url.Parse(r.API)
	if err != nil {
		return "" // the table is validated
	}
	return u.Hostname()
}

func at(r region.Region, port int) string { return hostPort(host(r), port) }

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// oneShare is a region's share of the machine's cores, for the Go runtimes of its
// processes: with all cores each, every packet would wake several threads in
// vain. Encoders count cores for themselves.
func (p *plan) oneShare() string { return fmt.Sprintf("GOMAXPROCS=%d", coresPerRegion(p.table)) }

func coresPerRegion(t *region.Table) int { return max(1, runtime.NumCPU()/len(t.Regions)) }

func (p *plan) log(r region.Region, name string) string {
	return p.state.path("logs", r.Name+"-"+name+".log")
}

// stores returns the specifications of a region's stores.
func (p *plan) stores(r region.Region) ([]supervise.Spec, error) {
	if err := os.MkdirAll(p.state.path(r.Name), 0o755); err != nil {
		return nil, err
	}
	var out []supervise.Spec
	makers := []func(region.Region) (supervise.Spec, error){p.etcd, p.postgres, p.nats, p.minio}
	if !r.Control {
		makers = makers[2:]
	}
	for _, make := range makers {
		spec, err := make(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name, err)
		}
		spec.Log = p.log(r, spec.Name)
		out = append(out, spec)
	}
	return out, nil
}

func (p *plan) natsConfig(r region.Region, store string) (string, error) {
	var routes []string
	if sites := control(p.table); len(sites) > 1 {
		routes = natsRoutes(sites, r)
	}
	var b strings.Builder
	err := natsTemplate.Execute(&b, map[string]any{"Name": r.Name, "Client": at(r, region.PortNATS), "Monitor": at(r, portNATSMonitor),
		"Cluster": at(r, portNATSCluster), "Store": store, "Routes": routes})
	return b.String(), err
}

// natsRoutes are the servers that a region's connects to: those before it in the
// table. If two connect to each other, and the packets cross, each drops the
// connection of the other, and after the same second they try again: over 220 ms
// that went on for half a minute. The own address is for the first, which would
// else not form a cluster; a server ignores a route to itself.
func natsRoutes(sites []region.Region, r region.Region) []string {
	var out []string
	for _, s := range sites {
		out = append(out, at(s, portNATSCluster))
		if s.Name == r.Name {
			break
		}
	}
	return out
}

var natsTemplate = template.Must(template.New("nats").Parse(`server_name: {{.Name}}
listen: "{{.Client}}"
http: "{{.Monitor}}"
server_tags: ["region:{{.Name}}"]
max_payload: 1MB
jetstream {
  store_dir: "{{.Store}}"
  # All streams have room in it. Otherwise it is a share of what is free at the start:
  # after a disk was full that may be too little to take them up again.
  max_file_store: 1GB
  # An acknowledged message must survive the loss of power.
  sync_interval: always
}
{{- if .Routes}}
cluster {
  name: meridian
  listen: "{{.Cluster}}"
  routes: [{{range .Routes}}
    "nats://{{.}}"{{end}}
  ]
  # A region that has gone silent must not hold routes for minutes.
  ping_interval: "2s"
  ping_max: 2
}
{{- end}}
`))

func (p *plan) nats(r region.Region) (supervise.Spec, error) {
	bin, err := tools.Path("nats-server")
	if err != nil {
		return supervise.Spec{}, err
	}
	dir := p.state.path(r.Name, procNATS)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return supervise.Spec{}, err
	}
	conf, err := p.natsConfig(r, dir)
	if err != nil {
		return supervise.Spec{}, err
	}
	file := p.state.path(r.Name, "nats.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return supervise.Spec{}, diskFull(err, p.state.dir)
	}
	monitor := "http://" + at(r, portNATSMonitor)
	return supervise.Spec{
		Name:  procNATS,
		Argv:  []string{bin, "--config", file},
		Env:   []string{p.oneShare()},
		Grace: 10 * time.Second,
		Ready: func(ctx context.Context) error { return natshealth.Ready(ctx, monitor) },
		Lost:  func(ctx context.Context) error { return natshealth.Lost(ctx, monitor, natshealth.Settling) },
	}, nil
}

func (p *plan) minio(r region.Region) (supervise.Spec, error) {
	bin, err := tools.Path("minio")
	if err != nil {
		return supervise.Spec{}, err
	}
	dir, config := p.state.path(r.Name, procMinIO), p.state.path(r.Name, "minio-certs")
	for _, d := range []string{dir, config} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return supervise.Spec{}, err
		}
	}
	return supervise.Spec{
		Name: procMinIO,
		Argv: []string{bin, "server", "--quiet", "--certs-dir", config, "--address", at(r, region.PortS3),
			"--console-address", at(r, portMinIOConsole), dir},
		Env: []string{p.oneShare(), "MINIO_ROOT_USER=" + s3AccessKey, "MINIO_ROOT_PASSWORD=" + p.secrets.s3,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off",
			// It counts usage and looks for lifecycle rules; we have none.
			"MINIO_SCANNER_SPEED=slowest"},
		Grace: 10 * time.Second,
		// An anonymous listing is refused once users can be looked up; the health pages say "ready" earlier.
		Ready: httpReady(r.S3+"/", http.StatusForbidden, ""),
	}, nil
}

// storeListeners are the addresses of a region's stores.
func storeListeners(r region.Region) []listener {
	out := []listener{
		{r.Name + " " + procNATS, "tcp", at(r, region.PortNATS)},
		{r.Name + " " + procNATS, "tcp", at(r, portNATSMonitor)},
		{r.Name + " " + procNATS, "tcp", at(r, portNATSCluster)},
		{r.Name + " " + procMinIO, "tcp", at(r, region.PortS3)},
	}
	if r.Control {
		out = append(out,
			listener{r.Name + " " + procEtcd, "tcp", at(r, portEtcdClient)},
			listener{r.Name + " " + procEtcd, "tcp", at(r, portEtcdPeer)},
			listener{r.Name + " " + procPostgres, "tcp", at(r, region.PortPostgres)},
			listener{r.Name + " " + procPostgres, "tcp", at(r, portPatroni)})
	}
	return out
}
