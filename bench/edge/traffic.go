package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// The files of Apache Traffic Server. Threads are those of its own
// records.config, memory and largest object those of the others here, and many who
// ask at once are answered as "Reducing Origin Server Requests" of its manual says.
var trafficFiles = map[string]string{
	"runroot.yaml": `prefix: {dir}
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {dir}/etc
datadir: {dir}/cache
includedir: /usr/include
libdir: /usr/lib
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {dir}/run
runtimedir: {dir}/run
logdir: {dir}/run
cachedir: {dir}/cache
`,
	"etc/records.config": `CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1 {tls}:ssl:ip-in=127.0.0.1
CONFIG proxy.config.admin.user_id STRING {user}
CONFIG proxy.config.exec_thread.autoconfig INT 1
CONFIG proxy.config.exec_thread.autoconfig.scale FLOAT 1.0
CONFIG proxy.config.cache.ram_cache.size INT {memory}
CONFIG proxy.config.cache.ram_cache_cutoff INT 33554432
CONFIG proxy.config.cache.enable_read_while_writer INT 1
CONFIG proxy.config.cache.read_while_writer.max_retries INT 10
CONFIG proxy.config.cache.read_while_writer_retry.delay INT 50
CONFIG proxy.config.http.background_fill_active_timeout INT 0
CONFIG proxy.config.http.background_fill_completed_threshold FLOAT 0.0
CONFIG proxy.config.http.cache.max_open_read_retries INT 5
CONFIG proxy.config.http.cache.open_read_retry_time INT 10
CONFIG proxy.config.http.cache.open_write_fail_action INT 5
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.ssl.server.cert.path STRING {dir}/etc
CONFIG proxy.config.ssl.server.private_key.path STRING {dir}/etc
CONFIG proxy.config.ssl.TLSv1_2 INT 0
CONFIG proxy.config.ssl.server.TLSv1_3.cipher_suites STRING {cipher}
CONFIG proxy.config.ssl.server.groups_list STRING {curve}
CONFIG proxy.config.diags.output.note STRING E
CONFIG proxy.config.diags.output.warning STRING E
CONFIG proxy.config.diags.output.error STRING E
CONFIG proxy.config.diags.output.fatal STRING E
`,
	"etc/remap.config":         "map / http://{origin}/\n",
	"etc/storage.config":       "{dir}/cache 4G\n",
	"etc/ssl_multicert.config": "dest_ip=* ssl_cert_name=cert.pem ssl_key_name=key.pem\n",
	"etc/ip_allow.yaml":        "ip_allow:\n  - {apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}\n",
	// What isn't there it complains about.
	"etc/plugin.config": "", "etc/logging.yaml": "", "etc/hosting.config": "", "etc/volume.config": "", "etc/parent.config": "", "etc/cache.config": "",
	"etc/sni.yaml": "", "etc/splitdns.config": "", "etc/socks.config": "", "etc/strategies.yaml": "",
}

func (b *bench) trafficServer(ctx context.Context) (*server, error) {
	addr, secure, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "traffic")
	// Started by root it becomes another user, its package's.
	who, uid, gid := "#-1", os.Getuid(), os.Getgid()
	if uid == 0 {
		u, err := user.Lookup("trafficserver")
		if err != nil {
			return nil, err
		}
		who = u.Username
		var errs [2]error
		uid, errs[0] = strconv.Atoi(u.Uid)
		gid, errs[1] = strconv.Atoi(u.Gid)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"", "etc", "run", "cache"} {
		d = filepath.Join(dir, d)
		if err := errors.Join(os.Mkdir(d, 0o700), os.Chown(d, uid, gid)); err != nil {
			return nil, err
		}
	}
	write := func(name string, text []byte) error {
		f := filepath.Join(dir, name)
		return errors.Join(os.WriteFile(f, text, 0o600), os.Chown(f, uid, gid))
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	_, tlsPort, err := net.SplitHostPort(secure)
	if err != nil {
		return nil, err
	}
	memory := 512 << 20
	if b.small {
		memory = diskMemory
	}
	fill := strings.NewReplacer("{memory}", strconv.Itoa(memory), "{dir}", dir, "{port}", port, "{tls}", tlsPort, "{user}", who, "{origin}", b.origin.addr, "{cipher}", cipherName, "{curve}", curveName)
	for name, text := range trafficFiles {
		if err := write(name, []byte(fill.Replace(text))); err != nil {
			return nil, err
		}
	}
	for name, file := range map[string]string{"etc/cert.pem": b.cert.cert, "etc/key.pem": b.cert.key} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = write(name, text)
		}
		if err != nil {
			return nil, err
		}
	}
	s := &server{name: nameTraffic, path: originPath, object: originObject, base: "http://" + addr, secure: "https://" + secure}
	return s, b.process(ctx, s, nil, "traffic_server", "--run-root="+filepath.Join(dir, "runroot.yaml"))
}
