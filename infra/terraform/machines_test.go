package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/deploy"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/tools"
)

// machine is one that the plan names.
type machine struct {
	region, role, kind, address string
}

func (m machine) name() string { return m.region + "-" + m.role }

// machines are the cores of three regions, and what it takes besides to encode and watch.
var machines = []machine{
	{"eu", "core", "core", "10.99.7.11"}, {"us", "core", "core", "10.99.7.12"}, {"ap", "core", "core", "10.99.7.13"},
	{"eu", "edge-1", "edge", "10.99.7.21"}, {"eu", "encoder-1", "encoder", "10.99.7.31"},
}

const onlookers = "10.99.7.1/24"

// images by what runs on a kind of machine.
var images = map[string][]string{
	"core":    {"meridian-postgres", "meridian-minio", "meridian-nats-server", "meridian"},
	"edge":    {"meridian"},
	"encoder": {"meridian-encoder"},
}

const registry, version = "registry.example", "v1"

// cloud is machines in namespaces.
type cloud struct {
	t           *testing.T
	dir, script string
}

func (c cloud) run(limit time.Duration, stdin []byte, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(stdin), &out, &out, 5*time.Second
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

func (c cloud) must(limit time.Duration, name string, args ...string) string {
	c.t.Helper()
	out, err := c.run(limit, nil, name, args...)
	require.NoError(c.t, err)
	return out
}

// in runs a command in a machine.
func (c cloud) in(limit time.Duration, m machine, args ...string) (string, error) {
	return c.run(limit, nil, c.script, append([]string{"in", c.dir, m.name()}, args...)...)
}

// look runs a command beside the machines.
func (c cloud) look(limit time.Duration, args ...string) (string, error) {
	return c.run(limit, nil, c.script, append([]string{"look", c.dir}, args...)...)
}

func (c cloud) eventually(within time.Duration, try func() error) {
	c.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > within {
			c.t.Fatalf("not within %v: %v", within, err)
		}
	}
}

// plan has OpenTofu make the region table and every machine's cloud-init.
func (c cloud) plan() *region.Table {
	c.t.Helper()
	f := newTofu(c.t)
	addresses, regions := map[string]map[string]string{}, map[string]map[string]any{}
	rtt := map[string]map[string]int{"eu": {"us": 90, "ap": 160}, "us": {"eu": 90, "ap": 220}, "ap": {"eu": 160, "us": 220}}
	for i, name := range []string{"eu", "us", "ap"} {
		encoders := 0
		// Every region has an edge in the table; not every edge runs here.
		addresses[name] = map[string]string{"edge-1": fmt.Sprintf("10.99.7.2%d", i+1)}
		for _, m := range machines {
			if m.region == name {
				addresses[name][m.role] = m.address
				if m.kind == "encoder" {
					encoders++
				}
			}
		}
		regions[name] = map[string]any{"number": i + 1, "place": name, "location": "x", "latitude": 50 - 20*i, "longitude": 8 + 40*i, "edges": 1, "encoders": encoders, "rtt_ms": rtt[name]}
	}
	vars, err := json.Marshal(map[string]any{"zone": "meridian.test", "operators": []string{"10.99.0.0/16"}, "regions": regions, "addresses": addresses})
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(filepath.Join(f.root, "modules/plan/test.auto.tfvars.json"), vars, 0o600))
	f.run(c.t, "modules/plan", "init", "-backend=false")
	f.run(c.t, "modules/plan", "apply", "-auto-approve", "-no-color")
	table, err := region.Parse([]byte(f.run(c.t, "modules/plan", "output", "-raw", "region_table")))
	require.NoError(c.t, err)
	f.run(c.t, "modules/machine", "init", "-backend=false")
	for _, m := range machines {
		state := "-state=" + filepath.Join(c.dir, m.name()+".tfstate")
		f.run(c.t, "modules/machine", "apply", "-auto-approve", "-no-color", state, "-var", "region="+m.region, "-var", "role="+m.role, "-var", "kind="+m.kind,
			"-var", "control=true", "-var", "address="+m.address, "-var", "volume=", "-var", "image_registry="+registry, "-var", "image_version="+version)
		data := f.run(c.t, "modules/machine", "output", state, "-raw", "user_data")
		require.NoError(c.t, os.WriteFile(filepath.Join(c.dir, m.name()+".user-data"), []byte(data), 0o600))
	}
	return table
}

// prepare makes the machines' file system and the images they will "pull".
func (c cloud) prepare() {
	c.t.Helper()
	docker := "docker"
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		docker = "/usr/bin/docker"
	}
	c.must(45*time.Minute, "sh", "../../deploy/compose/local.sh", "prepare")
	tag := os.Getenv("MERIDIAN_VERSION")
	if tag == "" {
		tag = "local"
	}
	require.NoError(c.t, os.Mkdir(filepath.Join(c.dir, "images"), 0o755))
	all := slices.Concat(images["core"], images["encoder"])
	for _, name := range all {
		to := registry + "/" + name + ":" + version
		c.must(time.Minute, docker, "tag", name+":"+tag, to)
		c.must(5*time.Minute, docker, "save", "-o", filepath.Join(c.dir, "images", name+".tar"), to)
		c.must(time.Minute, docker, "rmi", to)
	}
	c.must(20*time.Minute, docker, "build", "--quiet", "--network", "host", "-t", "meridian-test-machine", "machines")
	id := strings.TrimSpace(c.must(time.Minute, docker, "create", "meridian-test-machine", "/sbin/init"))
	defer c.must(time.Minute, docker, "rm", id)
	tar := filepath.Join(c.dir, "base.tar")
	c.must(5*time.Minute, docker, "export", "-o", tar, id)
	require.NoError(c.t, os.Mkdir(filepath.Join(c.dir, "base"), 0o755))
	c.must(5*time.Minute, "tar", "-C", filepath.Join(c.dir, "base"), "-xf", tar)
	require.NoError(c.t, os.Remove(tar))
}

// push runs push.sh, with programs in its way that reach these machines.
func (c cloud) push(secrets string) {
	c.t.Helper()
	bin := filepath.Join(c.dir, "bin")
	require.NoError(c.t, os.MkdirAll(bin, 0o755))
	byRegion := map[string]map[string]string{}
	names := ""
	for _, m := range machines {
		if byRegion[m.region] == nil {
			byRegion[m.region] = map[string]string{}
		}
		byRegion[m.region][m.role] = m.address
		names += fmt.Sprintf("root@%s|%s) name=%s ;;\n", m.address, m.address, m.name())
	}
	list, err := json.Marshal(byRegion)
	require.NoError(c.t, err)
	write := func(name, script string) {
		require.NoError(c.t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nset -eu\n"+script), 0o755))
	}
	write("terraform", "[ \"$*\" = 'output -json machines' ]\ncat <<'X'\n"+string(list)+"\nX\n")
	// rsync says `ssh -l root ADDRESS …`.
	write("ssh", "[ \"$1\" != -l ] || shift 2\ncase $1 in\n"+names+"*) exit 255 ;;\nesac\nshift\nexec "+c.script+" in "+c.dir+" $name sh -c \"$*\"\n")
	compose, err := tools.Path("compose")
	require.NoError(c.t, err)
	c.must(10*time.Minute, "env", "PATH="+bin+":"+os.Getenv("PATH"), "MERIDIAN_COMPOSE="+compose, "sh", "push.sh", secrets)
}

var assetID = regexp.MustCompile(`[a-z2-7]{26}`)

// TestCloudInitMakesAPlatform boots the machines of three regions with the
// cloud-init that OpenTofu renders, brings them their secrets as an operator does,
// and sends and watches a video.
func TestCloudInitMakesAPlatform(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Skip("namespaces and a Docker engine take root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "meridian-machines-")
	require.NoError(t, err)
	script, err := filepath.Abs("machines/machine.sh")
	require.NoError(t, err)
	c := cloud{t, dir, script}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range machines {
				out, err := c.in(time.Minute, m, "sh", "-c", "cloud-init status --long; journalctl -u meridian --no-pager -n 20; docker ps -a; for n in $(docker ps -aq); do docker logs --tail 8 $n; done")
				t.Logf("%s: %v\n%s", m.name(), err, out)
			}
		}
		_, err := c.run(2*time.Minute, nil, script, "end", dir)
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(dir))
	})
	c.prepare()
	table := c.plan()
	secrets := filepath.Join(dir, "secrets")
	require.NoError(t, deploy.Provision(table, secrets, nil, nil))

	began := time.Now()
	c.must(time.Minute, script, "network", dir, onlookers)
	for _, m := range machines {
		c.must(time.Minute, script, "boot", dir, m.name(), m.address+"/24")
	}
	for _, m := range machines {
		c.eventually(5*time.Minute, func() error {
			out, err := c.in(time.Minute, m, "cloud-init", "status", "--long")
			if err == nil && !strings.Contains(out, "status: done") {
				err = fmt.Errorf("%s: %s", m.name(), out)
			}
			return err
		})
		out, err := c.in(time.Minute, m, "systemctl", "is-enabled", "meridian")
		require.NoError(t, err)
		require.Equal(t, "enabled", strings.TrimSpace(out))
		// It waits for its secrets.
		out, _ = c.in(time.Minute, m, "systemctl", "is-active", "meridian") // says so with its status, too
		require.Equal(t, "inactive", strings.TrimSpace(out), m.name())
		for _, image := range images[m.kind] {
			_, err := c.in(5*time.Minute, m, "docker", "load", "--quiet", "--input", "/images/"+image+".tar")
			require.NoError(t, err)
		}
	}
	testenv.Figure(t, "five machines: cloud-init done, images there", "%.0f s", time.Since(began).Seconds())
	began = time.Now()
	c.push(secrets)
	for _, m := range machines {
		c.eventually(6*time.Minute, func() error {
			out, err := c.in(time.Minute, m, "docker", "ps", "--all", "--format", "{{.Names}} {{.Status}}")
			for line := range strings.Lines(out) {
				if err == nil && !strings.Contains(line, "(healthy)") {
					err = fmt.Errorf("%s: %s", m.name(), out)
				}
			}
			if err == nil && out == "" {
				err = fmt.Errorf("%s runs nothing", m.name())
			}
			return err
		})
	}
	testenv.Figure(t, "five machines: healthy after push.sh began", "%.0f s", time.Since(began).Seconds())

	program := filepath.Join(dir, "meridian")
	c.must(5*time.Minute, "go", "build", "-o", program, "github.com/meridian-video/meridian")
	var apis []string
	for _, r := range table.Regions {
		apis = append(apis, r.API)
	}
	out, err := c.look(5*time.Minute, program, "upload", "--api", strings.Join(apis, ","), "--api-key", "@"+filepath.Join(secrets, "keys", "api.key"), "../../testdata/media/small-426x240-27s.mp4")
	require.NoError(t, err)
	require.Contains(t, out, "ready after")
	asset := assetID.FindString(out)
	for _, r := range table.Regions {
		out, err := c.look(time.Minute, "ffprobe", "-v", "fatal", "-select_streams", "v:0", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0",
			r.Router.URL+"/v/-/"+asset+"/master.m3u8?steering=0")
		require.NoError(t, err)
		require.Equal(t, "816", strings.TrimSpace(strings.Fields(out)[0]), "frames by way of %s", r.Name)
	}
	out, err = c.look(time.Minute, "dig", "+short", "+time=2", "@"+machines[1].address, "play.meridian.test")
	require.NoError(t, err)
	require.Contains(t, out, "10.99.7.1", "the name server answers at port 53")
}
