package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/bench/proc"
)

// server is one who takes part.
type server struct {
	name string
	// path of the object of a size, and of a name.
	path func(name string, size int) string
	// object is the path of one of many objects of diskSize.
	object func(n int) string
	base   string
	// secure is base with TLS, "" where there is none.
	secure string
	// pid of the process, or of the one above all of the server's.
	pid int
}

const startTimeout = 30 * time.Second

// The servers' names on the command line.
const (
	nameNginx    = "nginx"
	nameVarnish  = "Varnish"
	nameTraffic  = "TrafficServer"
	nameMeridian = "Meridian"
	nameProxy    = "Meridian-proxy"
	nameBefore   = "Meridian-before" // -before
)

// isOurs reports whether a server is ours.
func isOurs(name string) bool { return name == nameMeridian || name == nameProxy || name == nameBefore }

var serverNames = []string{nameNginx, nameVarnish, nameTraffic, nameMeridian, nameProxy}

func originPath(name string, size int) string { return "/" + name + "/" + strconv.Itoa(size) }

func originObject(n int) string { return originPath("object-"+strconv.Itoa(n), diskSize) }

// start runs the servers.
func (b *bench) start(ctx context.Context, rows, names []string) error {
	starts := map[string]func(context.Context) (*server, error){
		nameNginx: b.nginx, nameVarnish: b.varnish, nameTraffic: b.trafficServer, nameMeridian: b.meridian, nameProxy: b.proxy, nameBefore: b.earlier,
	}
	programs := map[string]string{nameNginx: "nginx", nameVarnish: "varnishd", nameTraffic: "traffic_server", rowHits: "wrk", rowRange: "wrk", rowDisk: "wrk", rowTLS: "wrk", rowH2: "h2load"}
	var missing []string
	for _, name := range slices.Concat(names, rows) {
		if p := programs[name]; p != "" {
			if _, err := exec.LookPath(p); err != nil && !slices.Contains(missing, p) {
				missing = append(missing, p)
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s; `sh deploy/install.sh --bench` installs it, or leave it out with -servers", strings.Join(missing, ", "))
	}
	for _, name := range names {
		f, ok := starts[name]
		if !ok {
			return fmt.Errorf("-servers: %q: want some of %v", name, serverNames)
		}
		s, err := f(ctx)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		b.servers = append(b.servers, s)
	}
	return nil
}

// check fetches the object some times, so that it is a hit, and compares its bytes.
func (s *server) check(ctx context.Context, w way, size int, o *origin) error {
	url := w.base(s) + s.path("hit", size)
	client := w.newClient()
	for i := range 3 {
		want, p := o.body(size), w.part(size)
		if i == 0 {
			p = nil // parts come from the whole
		}
		if p != nil {
			want = want[p.first : p.last+1]
		}
		res, body, err := get(ctx, client, url, p)
		if err == nil {
			err = w.same(res)
		}
		if err == nil && !bytes.Equal(body, want) {
			err = fmt.Errorf("%s: not the origin's bytes", url)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), closeClient(client))
		}
	}
	return closeClient(client)
}

// costs measures with the server's processor time.
func (s *server) costs(measure func() (result, error)) (result, error) {
	before, err := proc.CPU(s.pid)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	r, err := measure()
	took := time.Since(began)
	after, cerr := proc.CPU(s.pid)
	if requests := r.rate * took.Seconds(); requests > 0 {
		r.cpu = time.Duration(float64(after-before) / requests)
	}
	return r, errors.Join(err, cerr)
}

func get(ctx context.Context, client *http.Client, url string, p *part) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	status := http.StatusOK
	if p != nil {
		status = http.StatusPartialContent
		req.Header.Set("Range", p.field())
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return nil, nil, err
	}
	if res.StatusCode != status {
		return nil, nil, fmt.Errorf("%s: status %d: %.200s", url, res.StatusCode, body)
	}
	return res, body, nil
}

// process runs the server until the bench ends, and waits until it accepts.
func (b *bench) process(ctx context.Context, s *server, env []string, argv ...string) error {
	waits := []string{strings.TrimPrefix(s.base, "http://")}
	if s.secure != "" { // Traffic Server opens it later
		waits = append(waits, strings.TrimPrefix(s.secure, "https://"))
	}
	log, err := os.Create(filepath.Join(b.dir, s.name+".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := errors.Join(cmd.Start()); err != nil {
		return errors.Join(err, log.Close())
	}
	s.pid = cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b.stops = append(b.stops, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		_ = log.Close()
	})
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", waits[0])
		if err == nil {
			if waits = waits[1:]; len(waits) == 0 {
				return c.Close()
			}
			err = c.Close()
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended (%w): %s", err, text)
		case <-deadline.C:
			return fmt.Errorf("it accepts no connections at %s after %s: %w", waits[0], startTimeout, err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// freeAddr finds a port; what took it meanwhile makes the start fail.
func freeAddr() (string, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// freeAddrs finds two, for a server without and with TLS.
func freeAddrs() (plain, secure string, err error) {
	if plain, err = freeAddr(); err == nil {
		secure, err = freeAddr()
	}
	return plain, secure, err
}

// idleTimeout of those who would close idle connections earlier than they are
// measured, in seconds; it is nginx's default.
const idleTimeout = "75"

// nginxConf: sendfile with full packets, one worker a CPU, files kept open, and
// lock so that one request of many goes to the origin. Of TLS, one cipher and curve.
const nginxConf = `
daemon off;
user root;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 16384; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	tcp_nodelay on;
	keepalive_requests 1000000000;
	open_file_cache max=10000 inactive=300s;
	open_file_cache_valid 300s;
	client_body_temp_path %[1]s/nginx-body;
	proxy_temp_path %[1]s/nginx-temp;
	fastcgi_temp_path %[1]s/nginx-fastcgi;
	uwsgi_temp_path %[1]s/nginx-uwsgi;
	scgi_temp_path %[1]s/nginx-scgi;
	proxy_cache_path %[1]s/nginx levels=1:2 keys_zone=bench:50m max_size=4g inactive=60m use_temp_path=off;
	upstream origin { server %[2]s; keepalive 16; }
	server {
		listen %[3]s backlog=4096;
		listen %[4]s ssl http2 backlog=4096;
		ssl_certificate %[5]s;
		ssl_certificate_key %[6]s;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites %[7]s;
		ssl_ecdh_curve %[8]s;
		location / {
			proxy_pass http://origin;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache bench;
			proxy_cache_lock on;
		}
	}
}
`

func (b *bench) nginx(ctx context.Context) (*server, error) {
	addr, secure, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(b.dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, b.dir, b.origin.addr, addr, secure, b.cert.cert, b.cert.key, cipherName, curveName), 0o600); err != nil {
		return nil, err
	}
	s := &server{name: nameNginx, path: originPath, object: originObject, base: "http://" + addr, secure: "https://" + secure}
	return s, b.process(ctx, s, nil, "nginx", "-p", b.dir, "-c", conf)
}

func (b *bench) varnish(ctx context.Context) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "varnish")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s := &server{name: nameVarnish, path: originPath, object: originObject, base: "http://" + addr}
	storage := "malloc,512m"
	if b.small {
		storage = "file," + filepath.Join(dir, "objects") + ",1g"
	}
	return s, b.process(ctx, s, nil, "varnishd", "-F", "-n", dir, "-a", addr, "-b", b.origin.addr, "-s", storage, "-p", "timeout_idle="+idleTimeout)
}

// apart measures at servers that start for it, as set says, and end after it.
func (b *bench) apart(ctx context.Context, set func(*bench), measure func(*bench) error, names ...string) (err error) {
	if slices.ContainsFunc(names, isOurs) {
		if _, err := b.build(ctx); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(b.dir, "alone-")
	if err != nil {
		return err
	}
	one := &bench{options: b.options, dir: dir, origin: b.origin, log: b.log, cert: b.cert}
	set(one)
	defer func() {
		one.stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // the peers' workers have users of their own
		return err
	}
	if err := one.start(ctx, nil, names); err != nil {
		return err
	}
	return measure(one)
}

// build makes the binary under test once, unless one was named.
func (b *bench) build(ctx context.Context) (string, error) {
	if b.binary != "" {
		return b.binary, nil
	}
	bin := filepath.Join(b.dir, "meridian")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/meridian-video/meridian").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	b.binary = bin
	return bin, nil
}
