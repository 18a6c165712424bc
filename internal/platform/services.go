package platform

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

const geoFile = "dev.mmdb"

// services returns the specifications of Meridian's own processes of a region.
func (p *plan) services(r region.Region) ([]supervise.Spec, error) {
	out := []supervise.Spec{
		p.service(r, "api", "api", host(r), region.PortAPIAdmin, append(p.database(), p.secrets.tlsEnv("MERIDIAN_API_TLS_", at(r, region.PortAPITLS))...),
			"MERIDIAN_API_LISTEN="+at(r, region.PortAPI),
			"MERIDIAN_ROOT_PUBLIC_KEY="+p.secrets.ref(token.RootPublicFile),
			"MERIDIAN_RECORD_KEY="+p.secrets.ref(token.RecordKeyFile),
			"MERIDIAN_PLAYBACK_KEY="+p.secrets.ref(token.PlaybackKeyFile),
			"MERIDIAN_KEY_SET="+p.secrets.ref(token.KeySetFile),
			"MERIDIAN_BOOTSTRAP_API_KEY="+p.secrets.ref(apiKeyFile)),
		p.service(r, "encoder", "encoder", host(r), region.PortEncoderAdmin, p.database(),
			"MERIDIAN_SCRATCH_DIR="+p.state.path(r.Name, "scratch")),
		p.service(r, "geodns", "geodns", host(r), region.PortRouterAdmin, p.secrets.tlsEnv("MERIDIAN_ROUTER_TLS_", at(r, region.PortRouterTLS)),
			"MERIDIAN_ROUTER_LISTEN="+at(r, region.PortRouter),
			"MERIDIAN_DNS_LISTEN="+r.Router.DNS,
			"MERIDIAN_GEO_DATABASE="+p.state.path("geo", geoFile),
			"MERIDIAN_ROOT_PUBLIC_KEY="+p.secrets.ref(token.RootPublicFile)),
	}
	for _, e := range r.Edges {
		addr := e.Addresses[0].String()
		out = append(out, p.service(r, "edge-cache", e.Name, addr, region.PortEdgeAdmin, p.secrets.tlsEnv("MERIDIAN_EDGE_TLS_", hostPort(addr, region.PortEdgeTLS)),
			"MERIDIAN_EDGE="+e.Name,
			"MERIDIAN_EDGE_LISTEN="+hostPort(addr, region.PortEdge),
			"MERIDIAN_EDGE_CACHE_DIR="+p.state.path(r.Name, e.Name),
			"MERIDIAN_ROOT_PUBLIC_KEY="+p.secrets.ref(token.RootPublicFile),
			"MERIDIAN_SESSION_KEY="+p.secrets.ref(token.SessionKeyFile(r.Name))))
	}
	for _, d := range append([]string{"scratch", "spool"}, edgeNames(r)...) {
		if err := os.MkdirAll(p.state.path(r.Name, d), 0o700); err != nil {
			return nil, diskFull(err, p.state.dir)
		}
	}
	return out, nil
}

func edgeNames(r region.Region) []string {
	var out []string
	for _, e := range r.Edges {
		out = append(out, e.Name)
	}
	return out
}

// service is a subcommand of this program, configured by environment alone, as
// it would be in production.
func (p *plan) service(r region.Region, command, name, addr string, adminPort int, more []string, env ...string) supervise.Spec {
	admin := hostPort(addr, adminPort)
	all := []string{
		"MERIDIAN_REGIONS=" + p.state.path("regions.yaml"),
		"MERIDIAN_REGION=" + r.Name,
		"MERIDIAN_ADMIN_LISTEN=" + admin,
		"MERIDIAN_S3_ACCESS_KEY=" + s3AccessKey,
		"MERIDIAN_S3_SECRET_KEY=" + p.secrets.ref(s3File),
	}
	if command != "encoder" {
		all = append(all, p.oneShare())
	}
	// How much is logged is the only thing taken from the environment of `up`.
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "MERIDIAN_LOG_") {
			all = append(all, v)
		}
	}
	return supervise.Spec{
		Name: name,
		Argv: []string{p.exe, command},
		Env:  slices.Concat(all, more, env, p.env),
		Dir:  p.state.path(r.Name),
		Log:  p.log(r, name),
		// Longer than a service's own drain.
		Grace: 15 * time.Second,
		Ready: httpReady("http://"+admin+"/readyz", http.StatusOK, ""),
	}
}

func (p *plan) database() []string {
	return []string{
		"MERIDIAN_POSTGRES_USER=" + dbUser,
		"MERIDIAN_POSTGRES_PASSWORD=" + p.secrets.ref(databaseFile),
		"MERIDIAN_POSTGRES_DATABASE=" + dbName,
		// Our servers have no certificates; asking for TLS first costs two round trips
		// of every connection.
		"PGSSLMODE=disable",
	}
}

// serviceListeners are the addresses of a region's services, without those of TLS.
func serviceListeners(r region.Region) []listener {
	out := []listener{
		{r.Name + " api", "tcp", at(r, region.PortAPI)},
		{r.Name + " api", "tcp", at(r, region.PortAPIAdmin)},
		{r.Name + " encoder", "tcp", at(r, region.PortEncoderAdmin)},
		{r.Name + " geodns", "tcp", at(r, region.PortRouter)},
		{r.Name + " geodns", "tcp", at(r, region.PortRouterAdmin)},
		{r.Name + " geodns", "tcp", r.Router.DNS},
		{r.Name + " geodns", "udp", r.Router.DNS},
	}
	for _, e := range r.Edges {
		addr := e.Addresses[0].String()
		out = append(out,
			listener{r.Name + " " + e.Name, "tcp", hostPort(addr, region.PortEdge)},
			listener{r.Name + " " + e.Name, "tcp", hostPort(addr, region.PortEdgeAdmin)})
	}
	return out
}

// tlsListeners are those of TLS.
func tlsListeners(r region.Region) []listener {
	out := []listener{
		{r.Name + " api", "tcp", at(r, region.PortAPITLS)},
		{r.Name + " geodns", "tcp", at(r, region.PortRouterTLS)},
	}
	for _, e := range r.Edges {
		out = append(out, listener{r.Name + " " + e.Name, "tcp", hostPort(e.Addresses[0].String(), region.PortEdgeTLS)})
	}
	return out
}
