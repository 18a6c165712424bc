package deploy

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/region"
)

const (
	composeFile    = "../docker-compose.multiregion.yml"
	regionLabel    = "video.meridian.region"
	componentLabel = "video.meridian.component"
)

func composeProject(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{composeFile}, cli.WithProfiles([]string{"*"}), cli.WithEnv([]string{"MERIDIAN_SECRETS=/secrets"}))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

// services of a region and component.
func services(p *types.Project, region, component string) []types.ServiceConfig {
	var out []types.ServiceConfig
	for _, s := range p.Services {
		if s.Labels[regionLabel] == region && s.Labels[componentLabel] == component {
			out = append(out, s)
		}
	}
	return out
}

func address(t *testing.T, s types.ServiceConfig, network string) string {
	t.Helper()
	n := s.Networks[network]
	require.NotNil(t, n, "%s is not on %s", s.Name, network)
	return n.Ipv4Address
}

func TestComposeIsTheRegionTable(t *testing.T) {
	project, table := composeProject(t), composeTable(t)
	one := func(r region.Region, component string) types.ServiceConfig {
		all := services(project, r.Name, component)
		require.Len(t, all, 1, "%s %s", r.Name, component)
		return all[0]
	}
	hostname := func(raw string) string {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		return u.Hostname()
	}
	for _, r := range table.Regions {
		require.Equal(t, hostname(r.API), address(t, one(r, "api"), "internet"))
		require.Equal(t, hostname(r.Router.URL), address(t, one(r, "geodns"), "internet"))
		dns, _, err := net.SplitHostPort(r.Router.DNS)
		require.NoError(t, err)
		require.Equal(t, dns, address(t, one(r, "geodns"), "internet"))
		edges := services(project, r.Name, "edge-cache")
		require.Len(t, edges, len(r.Edges))
		for _, s := range edges {
			e, in, ok := table.Edge(*s.Environment["MERIDIAN_EDGE"])
			require.True(t, ok)
			require.Equal(t, r.Name, in.Name)
			require.Equal(t, e.Addresses[0].String(), address(t, s, "internet"))
			require.Equal(t, hostname(e.URL), address(t, s, "internet"))
		}
		// Each region reaches its own stores on its own network, the others' over the backbone.
		for _, from := range table.Regions {
			network := "backbone"
			if from.Name == r.Name {
				network = r.Name
			}
			for component, host := range map[string]string{"minio": hostname(r.S3), "nats": hostname(r.NATS), "postgres": hostname("x://" + r.Postgres), "etcd": "etcd." + r.Name + ".meridian.internal"} {
				want := address(t, one(r, component), network)
				for _, client := range []string{"api", "encoder", "geodns", "postgres"} {
					require.Equal(t, []string{want}, one(from, client).ExtraHosts[host], "%s of %s finds %s", client, from.Name, host)
				}
			}
		}
		require.Empty(t, address(t, one(r, "encoder"), r.Name), "encoders are scaled: no address of their own")
	}
	for _, s := range project.Services {
		if name := s.Labels[regionLabel]; name != "" {
			_, ok := table.Get(name)
			require.True(t, ok, "%s is in region %s, which the table lacks", s.Name, name)
			if env := s.Environment["MERIDIAN_REGION"]; env != nil {
				require.Equal(t, name, *env)
			}
		}
	}
}

func TestComposeKeepsRegionsApart(t *testing.T) {
	project := composeProject(t)
	taken, volumes := map[string]string{}, map[string]string{}
	for _, s := range project.Services {
		region, component := s.Labels[regionLabel], s.Labels[componentLabel]
		require.NotEmpty(t, component, s.Name)
		for network, n := range s.Networks {
			if component != "prometheus" {
				require.Contains(t, []string{"internet", "backbone", region}, network, s.Name)
			}
			if n == nil || n.Ipv4Address == "" {
				continue
			}
			require.Empty(t, taken[n.Ipv4Address], "%s has the address of %s", s.Name, taken[n.Ipv4Address])
			taken[n.Ipv4Address] = s.Name
			pool := project.Networks[network].Ipam.Config[0]
			at := netip.MustParseAddr(n.Ipv4Address)
			require.True(t, netip.MustParsePrefix(pool.Subnet).Contains(at), s.Name)
			require.False(t, netip.MustParsePrefix(pool.IPRange).Contains(at), "%s: %s may be given to another container", s.Name, at)
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				require.Empty(t, volumes[v.Source], "%s has the volume of %s", s.Name, volumes[v.Source])
				volumes[v.Source] = s.Name
				continue
			}
			require.True(t, v.ReadOnly, s.Name)
			if region != "" {
				want := map[string]string{"edge-cache": Edge}[component]
				if want == "" {
					want = component
				}
				require.Equal(t, filepath.Join("/secrets", region, want), v.Source, "%s sees more than its own secrets", s.Name)
			}
		}
		if strings.Contains(" etcd postgres nats minio encoder ", " "+component+" ") {
			require.NotContains(t, s.Networks, "internet", s.Name)
			require.Empty(t, s.Ports, s.Name)
		}
	}
	for name, n := range project.Networks {
		require.Equal(t, name != "internet", bool(n.Internal), name)
	}
}

// Prometheus asks every service's admin listener, on its region's network.
func TestPrometheusScrapesEveryService(t *testing.T) {
	var config struct {
		Jobs []struct {
			Static []struct {
				Targets []string          `yaml:"targets"`
				Labels  map[string]string `yaml:"labels"`
			} `yaml:"static_configs"`
			DNS []struct {
				Names []string `yaml:"names"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	b, err := os.ReadFile(filepath.Join("compose", "prometheus", "prometheus.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, &config))
	targets, found := map[string]string{}, []string{}
	for _, j := range config.Jobs {
		for _, s := range j.Static {
			targets[s.Targets[0]] = s.Labels["region"] + " " + s.Labels["component"]
		}
		for _, d := range j.DNS {
			found = append(found, d.Names...)
		}
	}
	services := 0
	for _, s := range composeProject(t).Services {
		region, component := s.Labels[regionLabel], s.Labels[componentLabel]
		admin := s.Environment["MERIDIAN_ADMIN_LISTEN"]
		switch {
		case component == "encoder":
			require.Contains(t, found, s.Name)
		case admin != nil:
			services++
			require.Equal(t, region+" "+component, targets[*admin], s.Name)
			require.True(t, strings.HasPrefix(*admin, address(t, s, region)+":"), "%s: health isn't for viewers", s.Name)
		}
	}
	require.Len(t, targets, services)
}

func TestComposeLimitsEveryService(t *testing.T) {
	for _, s := range composeProject(t).Services {
		require.NotZero(t, s.MemLimit, s.Name)
		require.True(t, s.ReadOnly, s.Name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, s.Name)
		require.Contains(t, s.SecurityOpt, "no-new-privileges:true", s.Name)
		require.NotEmpty(t, s.Logging.Options["max-size"], s.Name)
		pulled := s.Labels[componentLabel] == "grafana"
		require.Equal(t, map[bool]string{false: types.PullPolicyNever, true: types.PullPolicyMissing}[pulled], s.PullPolicy, s.Name)
		for _, p := range s.Ports {
			at, err := netip.ParseAddr(p.HostIP)
			require.NoError(t, err, "%s publishes on every address", s.Name)
			require.True(t, at.IsLoopback(), s.Name)
		}
		if pulled {
			require.Equal(t, []string{"grafana"}, s.Profiles, "%s can't be pulled everywhere: nothing else may need it", s.Name)
			require.Contains(t, s.Image, ":", "no pinned version")
		}
		if s.Labels[regionLabel] != "" || len(s.Ports) > 0 {
			require.NotZero(t, s.CPUS, s.Name)
			require.NotZero(t, s.PidsLimit, s.Name)
			require.Equal(t, types.RestartPolicyUnlessStopped, s.Restart, s.Name)
		}
	}
}
