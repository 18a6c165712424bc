package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
)

// backupStanza is PostgreSQL's name in pgBackRest's repository.
const backupStanza = "meridian"

// RestoreLatest restores everything that was archived.
const RestoreLatest = "latest"

// Backup is how PostgreSQL is backed up by pgBackRest, and what a cluster that
// doesn't exist yet is made of.
type Backup struct {
	// Options are pgBackRest's, of its section [global]: where the repository is,
	// how long backups are kept.
	Options string
	// Restore is the time to which a new cluster is restored, RestoreLatest, or
	// empty for an empty database. It has no effect on a cluster that exists.
	Restore string
}

var (
	backupOption = regexp.MustCompile(`^[a-z0-9-]+ ?=`)
	// Chosen here unless the operator does: how long an unreachable repository may
	// hold a command, and how much of the log it may keep on the leader's disk;
	// what is beyond is then missing until the next base backup.
	backupDefaults = []string{"repo1-retention-full=2", "compress-type=zst", "io-timeout=15", "archive-push-queue-max=8GiB", "log-level-console=warn", "log-level-file=off"}
)

// LoadBackup reads the operator's options. An empty path is no backup, nil.
func LoadBackup(path, restore string) (*Backup, error) {
	if path == "" {
		if restore != "" {
			return nil, errors.New("--restore: name the repository with --backup-config")
		}
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--backup-config: %w", err)
	}
	backup := &Backup{Options: string(b), Restore: restore}
	if err := backup.validate(); err != nil {
		return nil, err
	}
	return backup, nil
}

func (b *Backup) validate() error {
	var errs []error
	repository := false
	for i, line := range strings.Split(b.Options, "\n") {
		line = strings.TrimSpace(line)
		name, _, _ := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case line == "" || strings.HasPrefix(line, "#") || line == "[global]":
		case !backupOption.MatchString(line):
			errs = append(errs, fmt.Errorf("--backup-config: line %d: %q: want pgBackRest options of [global], such as repo1-path=/srv/backup", i+1, line))
		case strings.HasPrefix(name, "pg") || slices.Contains([]string{"stanza", "lock-path", "archive-mode-check"}, name):
			errs = append(errs, fmt.Errorf("--backup-config: line %d: %s is set by the platform: leave it out", i+1, name))
		default:
			repository = repository || strings.HasPrefix(name, "repo1-")
		}
	}
	if !repository {
		errs = append(errs, errors.New("--backup-config: no repository: want repo1-path, or repo1-type=s3 and what goes with it"))
	}
	if b.Restore != "" && b.Restore != RestoreLatest {
		if _, err := time.Parse(time.RFC3339, b.Restore); err != nil {
			errs = append(errs, fmt.Errorf("--restore %q: want latest, or a time such as 2026-11-26T14:05:00Z", b.Restore))
		}
	}
	return errors.Join(errs...)
}

// Config is pgBackRest's configuration of a member whose data directory and
// sockets are named; lock is a directory of its own.
func (b *Backup) Config(data, sockets, lock string, port int) []byte {
	var out strings.Builder
	out.WriteString("[global]\n")
	set := map[string]bool{}
	for line := range strings.Lines(b.Options) {
		line = strings.TrimSpace(line)
		if line == "" || line == "[global]" || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line, "=")
		set[strings.TrimSpace(name)] = true
		out.WriteString(line + "\n")
	}
	for _, line := range backupDefaults {
		if name, _, _ := strings.Cut(line, "="); !set[name] {
			out.WriteString(line + "\n")
		}
	}
	fmt.Fprintf(&out, "lock-path=%s\nstart-fast=y\n\n[%s]\npg1-path=%s\npg1-socket-path=%s\npg1-port=%d\npg1-user=%s\n", lock, backupStanza, data, sockets, port, superuser)
	return []byte(out.String())
}

// Configure has a Patroni configuration archive to the repository that the
// pgBackRest configuration at path names, back up from its leader, and make a
// new cluster as Restore says.
func (b *Backup) Configure(c map[string]any, path, password string) error {
	pg, ok := c["postgresql"].(obj)
	if !ok {
		return fmt.Errorf("patroni: postgresql is %T", c["postgresql"])
	}
	params, ok := pg["parameters"].(obj)
	if !ok {
		return fmt.Errorf("patroni: parameters are %T", pg["parameters"])
	}
	hba, ok := pg["pg_hba"].([]string)
	if !ok {
		return fmt.Errorf("patroni: pg_hba is %T", pg["pg_hba"])
	}
	// pgBackRest comes over the socket.
	pg["pg_hba"] = append([]string{"local all " + superuser + " scram-sha-256"}, hba...)
	boot, ok := c["bootstrap"].(obj)
	if !ok {
		return fmt.Errorf("patroni: bootstrap is %T", c["bootstrap"])
	}
	command := "pgbackrest --config=" + path + " --stanza=" + backupStanza
	params["archive_mode"] = "on"
	params["archive_command"] = command + " archive-push %p"
	// The most that is lost with all regions.
	params["archive_timeout"] = "60s"
	c["backup"] = obj{"config": path, "stanza": backupStanza, "user": superuser, "password": password}
	if b.Restore == "" {
		return nil
	}
	if b.Restore != RestoreLatest {
		at, err := time.Parse(time.RFC3339, b.Restore)
		if err != nil {
			return fmt.Errorf("--restore: %w", err)
		}
		command += ` --type=time "--target=` + at.UTC().Format("2006-01-02 15:04:05.000000+00") + `" --target-action=promote`
	}
	// While it makes a cluster by a method of ours, Patroni admits its own address,
	// and at loopback addresses that isn't where it comes from.
	pg["use_unix_socket"] = true
	boot["method"] = "restore"
	boot["restore"] = obj{"command": command + " restore", "no_params": true, "keep_existing_recovery_conf": true}
	return nil
}

// Files of a backup in the secrets directory: repositories have passwords.
const (
	backupFile  = "backup.conf"
	restoreFile = "restore"
)

// keepBackup writes what is wanted of backups to where every region's processes
// find it, or removes what was wanted before.
func keepBackup(dir string, b *Backup) error {
	files := map[string]string{backupFile: "", restoreFile: ""}
	if b != nil {
		files[backupFile], files[restoreFile] = b.Options, b.Restore
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if content != "" {
			if err := durable.Write(path, []byte(content), 0o600); err != nil {
				return err
			}
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// keptBackup reads it back; nil if there is none.
func keptBackup(dir string) (*Backup, error) {
	var b Backup
	for name, to := range map[string]*string{backupFile: &b.Options, restoreFile: &b.Restore} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		*to = string(content)
	}
	if b.Options == "" {
		return nil, nil
	}
	return &b, nil
}

// checkRestore refuses to restore beside databases that are there: Patroni would
// go on with them.
func (s *state) checkRestore(regions []string) error {
	for _, r := range regions {
		for _, store := range []string{procEtcd, procPostgres} {
			_, err := os.Stat(s.path(r, store))
			if err == nil {
				return fmt.Errorf("--restore: %s holds a database already: move every region's %s and %s away first, or use another --state",
					s.path(r, store), procEtcd, procPostgres)
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("--restore: %w", err)
			}
		}
	}
	return nil
}

func portOf(address string) (int, error) {
	_, port, ok := strings.Cut(address, ":")
	if !ok {
		return 0, fmt.Errorf("%q has no port", address)
	}
	return strconv.Atoi(port)
}
