package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/meridian-video/meridian/internal/platform/patroni"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/tools"
)

const (
	superuser  = "postgres"
	replicator = "replicator"
	dbUser     = "meridian"
	dbName     = "meridian"
)

// postgres is a region's member under Patroni, which starts and watches the
// server and elects the leader through etcd.
func (p *plan) postgres(r region.Region) (supervise.Spec, error) {
	if _, err := tools.System("patroni"); err != nil {
		return supervise.Spec{}, err
	}
	home, err := p.state.postgresDir(r.Name, procPostgres)
	if err != nil {
		return supervise.Spec{}, err
	}
	data := filepath.Join(home, "data")
	bin, err := postgresFor(data)
	if err != nil {
		return supervise.Spec{}, err
	}
	program, file := filepath.Join(home, "run_patroni.py"), filepath.Join(home, "patroni.yml")
	files := map[string][]byte{program: patroni.Program}
	settings := p.patroniConfig(r, home, data, bin)
	if b := p.secrets.backup; b != nil {
		if _, err := tools.System("pgbackrest"); err != nil {
			return supervise.Spec{}, err
		}
		port, err := portOf(r.Postgres)
		if err != nil {
			return supervise.Spec{}, fmt.Errorf("postgres: %w", err)
		}
		path := filepath.Join(home, "pgbackrest.conf")
		files[path] = b.Config(data, home, filepath.Join(home, "lock"), port)
		if err := b.Configure(settings, path, p.secrets.superuser); err != nil {
			return supervise.Spec{}, err
		}
	}
	if files[file], err = yaml.Marshal(settings); err != nil {
		return supervise.Spec{}, err
	}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return supervise.Spec{}, diskFull(err, p.state.dir)
		}
		if c := p.state.cred; c != nil {
			if err := os.Chown(path, int(c.Uid), int(c.Gid)); err != nil {
				return supervise.Spec{}, err
			}
		}
	}
	return supervise.Spec{
		Name:       procPostgres,
		Argv:       []string{patroni.Interpreter, program, file},
		Env:        []string{"HOME=" + home, "LC_ALL=C.UTF-8"},
		Dir:        home,
		Credential: p.state.cred,
		// Patroni stops the server and gives up leadership first.
		Grace: 20 * time.Second,
		Ready: httpReady("http://"+at(r, portPatroni)+"/health", http.StatusOK, ""),
		// Without etcd Patroni sleeps for five seconds before it looks again.
		After: etcdReady(r),
	}, nil
}

// postgresFor returns the programs that fit a data directory, or the newest for a new one.
func postgresFor(data string) (bin string, err error) {
	newest, major, err := tools.PostgresBin()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return newest, nil
	}
	if err != nil {
		return "", fmt.Errorf("PostgreSQL's data: %w", err)
	}
	made := strings.TrimSpace(string(b))
	if made == strconv.Itoa(major) {
		return newest, nil
	}
	bin = filepath.Join("/usr/lib/postgresql", made, "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err == nil {
		return bin, nil
	}
	return "", fmt.Errorf("the data in %s were made by PostgreSQL %s, here is %d: install postgresql-%[2]s, or start anew with --fresh (this deletes all videos in the state directory)",
		data, made, major)
}

type obj = map[string]any

// patroniConfig holds values proven together: three members up in 6 s from
// nothing; the leader's region killed with its etcd, writes go on after 9 s.
func (p *plan) patroniConfig(r region.Region, home, data, bin string) obj {
	sites := control(p.table)
	var etcd []string
	for _, s := range p.table.Nearest(r.Name) {
		if s.Control {
			etcd = append(etcd, at(s, portEtcdClient))
		}
	}
	wait := timingFor(p.table)
	whole := func(d time.Duration) int { return int(d / time.Second) }
	silence := fmt.Sprintf("%dms", wait.postgresSilence.Milliseconds())
	dcs := obj{
		"ttl": whole(wait.patroniTTL), "loop_wait": whole(wait.patroniLoop), "retry_timeout": whole(wait.patroniRetry),
		"master_start_timeout":    0,
		"maximum_lag_on_failover": 1 << 20,
		"postgresql": obj{
			"use_pg_rewind": true,
			// Patroni drops the slot of a member it doesn't see, so slots keep nothing
			// for a lost region; but a standby would wait for the new leader to make
			// its slot, and all commits for that standby.
			"use_slots": false,
			"parameters": obj{
				"max_connections": 200, "max_wal_senders": 10, "max_replication_slots": 10,
				"wal_level": "replica", "hot_standby": "on", "wal_log_hints": "on",
				// What a region may miss and still catch up. pg_rewind copies all of it and
				// what is kept for reuse, a megabyte in two round trips.
				"wal_keep_size": "128MB", "min_wal_size": "16MB",
				// A standby that has gone silent must not hold commits for the default
				// minute, and one whose leader has must soon look for it again.
				"wal_sender_timeout": silence, "wal_receiver_timeout": silence, "wal_retrieve_retry_interval": "200ms",
			},
		},
	}
	if len(sites) > 1 {
		// Strict: without a standby to confirm them, commits wait rather than live in one place.
		dcs["synchronous_mode"] = true
		dcs["synchronous_mode_strict"] = true
	}
	var hba []string
	for _, net := range []string{"127.0.0.0/8", "198.18.0.0/15"} {
		hba = append(hba, "host all all "+net+" scram-sha-256", "host replication "+replicator+" "+net+" scram-sha-256")
	}
	auth := func(user, password string) obj { return obj{"username": user, "password": password} }
	return obj{
		"scope": "meridian", "name": r.Name,
		// Nobody has a watchdog device here; in strict synchronous mode a leader that
		// is late to step down can't commit.
		"watchdog": obj{"mode": "off"},
		"restapi":  obj{"listen": at(r, portPatroni), "connect_address": at(r, portPatroni)},
		// As "proxies" they are asked in this order, the own region's first; else
		// Patroni stays with a random one.
		"etcd3":     obj{"hosts": etcd, "use_proxies": true},
		"bootstrap": obj{"dcs": dcs, "initdb": []any{obj{"encoding": "UTF8"}, obj{"locale": "C.UTF-8"}, obj{"wal-segsize": "4"}, "data-checksums"}},
		"postgresql": obj{
			"listen": r.Postgres, "connect_address": r.Postgres,
			"data_dir": data, "bin_dir": bin, "pgpass": filepath.Join(home, "pgpass"),
			"authentication": obj{
				"superuser":   auth(superuser, p.secrets.superuser),
				"replication": auth(replicator, p.secrets.replication),
			},
			"parameters": obj{
				"unix_socket_directories": home, "password_encryption": "scram-sha-256",
				"shared_buffers": "128MB", "log_line_prefix": "%m [%p] %q%u@%d ",
			},
			"pg_hba": hba,
			// While Patroni waits for a member that isn't consistent yet, it doesn't show
			// it the next leader: when the leader was lost just then, commits waited for
			// it a minute. What is missing may be only the next leader's to send.
			"pg_ctl_timeout": whole(2 * wait.patroniTTL),
			// A spread checkpoint would keep a new member waiting.
			"basebackup": []any{obj{"checkpoint": "fast"}},
			// A member that can't be wound back is copied anew.
			"remove_data_directory_on_rewind_failure": true,
		},
	}
}

// postmasters recognises the servers of this state directory: a postmaster's
// children overwrite their environment, but all work in its data directory.
// The group is a region's name, or empty for any.
func postmasters(stateDir string) func(group string, pid int) bool {
	return func(group string, pid int) bool {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil || !strings.HasPrefix(cwd, filepath.Join(stateDir, group)+"/") || filepath.Base(cwd) != "data" {
			return false
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
	}
}

// Apart recognises what belongs to a region's process and isn't below it: Patroni's
// PostgreSQL has left it. Nil if nothing does. stateDir is absolute.
func Apart(stateDir, region, process string) func(pid int) bool {
	if process != procPostgres {
		return nil
	}
	found := postmasters(stateDir)
	return func(pid int) bool { return found(region, pid) }
}

// prepareDatabase waits for a leader that takes writes and makes the role and
// the database, or gives the role its password again.
func (p *plan) prepareDatabase(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := p.tryPrepareDatabase(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL has no leader that takes writes: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *plan) tryPrepareDatabase(ctx context.Context) error {
	conn, err := p.leader(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var role, db bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $2)`,
		dbUser, dbName).Scan(&role, &db)
	if err != nil {
		return err
	}
	verb := "CREATE"
	if role {
		verb = "ALTER"
	}
	// Our passwords are base32, so they need no quoting.
	if _, err := conn.Exec(ctx, verb+" ROLE "+dbUser+" LOGIN PASSWORD '"+p.secrets.database+"'"); err != nil {
		return err
	}
	if !db {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+dbName+" OWNER "+dbUser); err != nil {
			return err
		}
	}
	return nil
}

// isLeader says whether a region's member leads.
func isLeader(ctx context.Context, r region.Region) bool {
	return httpReady("http://"+at(r, portPatroni)+"/leader", http.StatusOK, "")(ctx) == nil
}
