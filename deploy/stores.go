package deploy

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"
	"text/template"

	"github.com/goccy/go-yaml"

	"github.com/meridian-video/meridian/internal/platform"
	"github.com/meridian-video/meridian/internal/region"
)

// natsUser is whom services connect to NATS as.
const natsUser = "meridian"

// Ports between the stores; those services use are in the region table.
const (
	portEtcd        = 2379
	portEtcdPeer    = 2380
	portPatroni     = 8008
	portNATSCluster = 6222
)

// binDir is where the image has PostgreSQL's programs.
const binDir = "/usr/lib/postgresql/15/bin"

// Where PostgreSQL keeps its data and its sockets.
const (
	postgresData    = Data + "/postgres/data"
	postgresSockets = "/tmp"
)

type obj = map[string]any

// natsHost, s3Host, postgresHost and etcdHost are the names or addresses under
// which a region's stores are reached.
func natsHost(r region.Region) (string, error) { return hostOf(r.NATS) }
func s3Host(r region.Region) (string, error)   { return hostOf(r.S3) }

func hostOf(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	return u.Hostname(), nil
}

func postgresHost(r region.Region) (string, error) {
	host, _, err := net.SplitHostPort(r.Postgres)
	return host, err
}

// etcdHost is a name beside PostgreSQL's ("postgres.eu.example" → "etcd.eu.example"),
// for the region table doesn't name what no service calls; a literal address is
// that of a machine which runs both.
func etcdHost(r region.Region) (string, error) {
	host, err := postgresHost(r)
	if err != nil || net.ParseIP(host) != nil {
		return host, err
	}
	_, domain, ok := strings.Cut(host, ".")
	if !ok {
		return "", fmt.Errorf("postgres %q: want an address or a name with a domain, etcd is reached as etcd.DOMAIN", r.Postgres)
	}
	return "etcd." + domain, nil
}

// addStore adds a store's configuration and certificate to its files.
func (p *provision) addStore(r region.Region, component string, files map[string][]byte) error {
	var host string
	var err error
	switch component {
	case Etcd:
		host, err = etcdHost(r)
	case Postgres:
		host, err = postgresHost(r)
	case NATS:
		host, err = natsHost(r)
	case MinIO:
		host, err = s3Host(r)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	crt, key, err := p.ca.Issue(r.Name+"-"+component, []string{host})
	if err != nil {
		return err
	}
	switch component {
	case Etcd:
		files["etcd.yml"], err = p.etcd(r)
	case Postgres:
		if p.backup != nil {
			files["pgbackrest.conf"] = p.backup.Config(postgresData, postgresSockets, postgresSockets+"/pgbackrest", region.PortPostgres)
		}
		files["patroni.yml"], err = p.patroni(r)
	case NATS:
		files["nats.conf"], err = p.nats(r)
	case MinIO:
		// The names MinIO looks for.
		files["public.crt"], files["private.key"] = crt, key
		return nil
	}
	files["tls.crt"], files["tls.key"] = crt, key
	return err
}

func (p *provision) control() []region.Region {
	var out []region.Region
	for _, r := range p.table.Regions {
		if r.Control {
			out = append(out, r)
		}
	}
	return out
}

func (p *provision) etcd(r region.Region) ([]byte, error) {
	set := platform.SettingsFor(p.table, r)
	own, err := etcdHost(r)
	if err != nil {
		return nil, err
	}
	cluster := ""
	for i, c := range p.control() {
		host, err := etcdHost(c)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			cluster += ","
		}
		cluster += fmt.Sprintf("%s=https://%s:%d", c.Name, host, portEtcdPeer)
	}
	security := obj{"cert-file": Mount + "/tls.crt", "key-file": Mount + "/tls.key", "trusted-ca-file": Mount + "/ca.crt", "client-cert-auth": true}
	return yaml.Marshal(obj{
		"name": r.Name, "data-dir": Data + "/etcd",
		"listen-client-urls":    fmt.Sprintf("https://0.0.0.0:%d", portEtcd),
		"advertise-client-urls": fmt.Sprintf("https://%s:%d", own, portEtcd),
		"listen-peer-urls":      fmt.Sprintf("https://0.0.0.0:%d", portEtcdPeer),
		// Health and metrics without certificates, for the machine itself alone.
		"listen-metrics-urls":         "http://127.0.0.1:2381",
		"initial-advertise-peer-urls": fmt.Sprintf("https://%s:%d", own, portEtcdPeer),
		"initial-cluster":             cluster, "initial-cluster-token": "meridian", "initial-cluster-state": "new",
		"heartbeat-interval": set.EtcdHeartbeat.Milliseconds(), "election-timeout": set.EtcdElection.Milliseconds(),
		// A member that comes back asks before it disturbs the others with an election.
		"pre-vote": true,
		// Patroni talks through it; on without a configuration file, off with one.
		"enable-grpc-gateway":  true,
		"auto-compaction-mode": "periodic", "auto-compaction-retention": "1h",
		"logger": "zap", "log-level": "warn",
		"client-transport-security": security, "peer-transport-security": security,
	})
}

// patroni is the configuration `up` runs, at other addresses and over TLS.
func (p *provision) patroni(r region.Region) ([]byte, error) {
	c := platform.SettingsFor(p.table, r).Patroni
	own, err := postgresHost(r)
	if err != nil {
		return nil, err
	}
	var etcd []string
	for _, s := range p.table.Nearest(r.Name) {
		if !s.Control {
			continue
		}
		host, err := etcdHost(s)
		if err != nil {
			return nil, err
		}
		etcd = append(etcd, net.JoinHostPort(host, fmt.Sprint(portEtcd)))
	}
	// PostgreSQL refuses a key that others may read: the entry point makes its own copy.
	crt, key, ca := Mount+"/tls.crt", "/tmp/tls.key", Mount+"/ca.crt"
	pg, ok := c["postgresql"].(obj)
	if !ok {
		return nil, fmt.Errorf("patroni: postgresql is %T", c["postgresql"])
	}
	params, ok := pg["parameters"].(obj)
	if !ok {
		return nil, fmt.Errorf("patroni: parameters are %T", pg["parameters"])
	}
	params["unix_socket_directories"] = postgresSockets
	params["ssl"], params["ssl_cert_file"], params["ssl_key_file"], params["ssl_ca_file"] = "on", crt, key, ca
	login := func(user, secret string) obj {
		return obj{"username": user, "password": p.secrets[secret], "sslmode": "verify-full", "sslrootcert": ca}
	}
	pg["listen"], pg["connect_address"] = fmt.Sprintf("0.0.0.0:%d", region.PortPostgres), r.Postgres
	pg["data_dir"], pg["bin_dir"], pg["pgpass"] = postgresData, binDir, path.Join(Data, "postgres", "pgpass")
	pg["authentication"] = obj{"superuser": login("postgres", superuserFile), "replication": login("replicator", replicationFile)}
	pg["pg_hba"] = []string{"hostssl all all all scram-sha-256", "hostssl replication replicator all scram-sha-256"}
	c["restapi"] = obj{"listen": fmt.Sprintf("0.0.0.0:%d", portPatroni), "connect_address": net.JoinHostPort(own, fmt.Sprint(portPatroni)),
		"certfile": crt, "keyfile": key, "cafile": ca, "authentication": obj{"username": "patroni", "password": p.secrets[patroniFile]}}
	c["ctl"] = obj{"insecure": false, "cacert": ca}
	dcs, ok := c["etcd3"].(obj)
	if !ok {
		return nil, fmt.Errorf("patroni: etcd3 is %T", c["etcd3"])
	}
	dcs["hosts"], dcs["protocol"], dcs["cacert"], dcs["cert"], dcs["key"] = etcd, "https", ca, crt, key
	boot, ok := c["bootstrap"].(obj)
	if !ok {
		return nil, fmt.Errorf("patroni: bootstrap is %T", c["bootstrap"])
	}
	boot["post_bootstrap"] = "/usr/local/lib/meridian/post-bootstrap"
	if p.backup != nil {
		if err := p.backup.Configure(c, Mount+"/pgbackrest.conf", p.secrets[superuserFile]); err != nil {
			return nil, err
		}
	}
	return yaml.Marshal(c)
}

var natsTemplate = template.Must(template.New("nats").Parse(`server_name: {{.Name}}
listen: "0.0.0.0:4222"
# Health, for the machine itself alone.
http: "127.0.0.1:8222"
server_tags: ["region:{{.Name}}"]
max_payload: 1MB
tls {
  cert_file: "{{.Mount}}/tls.crt"
  key_file: "{{.Mount}}/tls.key"
  timeout: 5
}
authorization {
  user: {{.User}}
  password: "{{.Password}}"
  timeout: 5
}
jetstream {
  store_dir: "{{.Data}}/nats"
  max_memory_store: 64MB
  max_file_store: 4GB
  # An acknowledged message must survive the loss of power.
  sync_interval: always
  # Copies of a stream live in different regions.
  unique_tag: "region:"
}
{{- if .Routes}}
cluster {
  name: meridian
  listen: "0.0.0.0:{{.Port}}"
  advertise: "{{.Host}}:{{.Port}}"
  # Services have all addresses from the region table.
  no_advertise: true
  tls {
    cert_file: "{{.Mount}}/tls.crt"
    key_file: "{{.Mount}}/tls.key"
    ca_file: "{{.Mount}}/ca.crt"
    verify: true
    timeout: 5
  }
  routes: [{{range .Routes}}
    "tls://{{.}}:{{$.Port}}"{{end}}
  ]
  # A region that has gone silent must not hold routes for minutes.
  ping_interval: "2s"
  ping_max: 2
}
{{- end}}
`))

func (p *provision) nats(r region.Region) ([]byte, error) {
	own, err := natsHost(r)
	if err != nil {
		return nil, err
	}
	var routes []string
	if control := p.control(); len(control) > 1 {
		// To those before it in the table: connections that cross drop each other.
		// A server ignores the route to itself, which the first needs to form a cluster.
		for _, c := range control {
			host, err := natsHost(c)
			if err != nil {
				return nil, err
			}
			routes = append(routes, host)
			if c.Name == r.Name {
				break
			}
		}
	}
	var b bytes.Buffer
	err = natsTemplate.Execute(&b, obj{"Name": r.Name, "Mount": Mount, "Data": Data, "User": natsUser, "Password": p.secrets[natsFile],
		"Host": own, "Port": portNATSCluster, "Routes": routes})
	return b.Bytes(), err
}
