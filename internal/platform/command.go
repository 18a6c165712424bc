package platform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/meridian-video/meridian/internal/region"
)

// Command is `meridian up`.
type Command struct {
	Regions      []string `help:"Regions to run, each on a loopback address of its own." default:"eu,us,ap" env:"MERIDIAN_UP_REGIONS" placeholder:"eu,us,ap"`
	State        string   `help:"Directory of all state; default: /var/lib/meridian for root, else below the user's state directory." env:"MERIDIAN_STATE" placeholder:"DIR"`
	Isolated     bool     `help:"Give each region a process and a network namespace of its own, joined by a wide-area network with real delays (root only)." env:"MERIDIAN_UP_ISOLATED"`
	Fresh        bool     `help:"Wipe the state first."`
	TLS          bool     `help:"Answer with TLS as well, with a certificate of a development CA made for it." env:"MERIDIAN_UP_TLS"`
	RegionDisk   string   `help:"Give each region a disk of its own of this size, a file that is mounted, so that it can fill up (root only)." placeholder:"4GiB"`
	Program      string   `help:"Another version of this program, whose services to run." type:"existingfile" placeholder:"FILE"`
	BackupConfig string   `help:"Back PostgreSQL up with pgBackRest, to the repository whose options (of its section [global]) are in this file." env:"MERIDIAN_BACKUP_CONFIG" placeholder:"FILE"`
	Restore      string   `help:"Make the databases, of which there must be none, from that repository: latest, or as they were at a time (RFC 3339)." placeholder:"TIME"`
	StoresOnly   bool     `help:"Run etcd, PostgreSQL, NATS and MinIO, and none of Meridian's services."`
	ClientConfig string   `help:"Where to write the API address and key for the command line; auto is the user's configuration directory, none is nowhere." default:"auto" env:"MERIDIAN_CLIENT_CONFIG" placeholder:"FILE"`
	// Network moves region addresses, to run beside another platform.
	Network int `hidden:"" help:"Place region n at 127.{NETWORK+n}.0.1, or isolated in the NETWORK-th /20, taken from 198.18.0.0/16 and 198.19.0.0/16 in turn." env:"MERIDIAN_UP_NETWORK"`
}

// maxNetwork keeps region addresses, and geo test clients at 127.11 to 127.13, inside 127/8.
const maxNetwork = 250

// maxIsolated keeps isolated platforms where the development geo database knows
// viewers, and apart from those of docker-compose.multiregion.yml.
const maxIsolated = 7

// maxStatePath leaves room for the longest unix socket's path below the state directory.
const maxStatePath = 70

// Validate lists every problem of the configuration.
func (c *Command) Validate() error {
	var errs []error
	if len(c.Regions) == 0 {
		errs = append(errs, errors.New("--regions: want at least one of eu, us, ap"))
	}
	seen := map[string]bool{}
	for _, r := range c.Regions {
		if seen[r] {
			errs = append(errs, fmt.Errorf("--regions: %s is named twice", r))
		}
		seen[r] = true
	}
	if len(c.Regions) > 0 {
		if _, err := region.Loopback(c.Regions...); err != nil {
			errs = append(errs, fmt.Errorf("--regions: %w", err))
		}
	}
	if len(c.Regions) == 2 {
		errs = append(errs, errors.New("--regions: want one region or all three: two have no majority when one is lost"))
	}
	if c.Isolated && os.Geteuid() != 0 {
		errs = append(errs, errors.New("--isolated: only root may make namespaces: start as root, or without --isolated"))
	}
	if c.Isolated && c.Network > maxIsolated {
		errs = append(errs, fmt.Errorf("network %d: want 0 to %d with --isolated", c.Network, maxIsolated))
	}
	if _, err := c.regionDisk(); err != nil {
		errs = append(errs, err)
	}
	if c.Network < 0 || c.Network > maxNetwork {
		errs = append(errs, fmt.Errorf("network %d: want 0 to %d", c.Network, maxNetwork))
	}
	if dir, err := c.stateDir(); err != nil {
		errs = append(errs, err)
	} else if len(dir) > maxStatePath {
		errs = append(errs, fmt.Errorf("--state %s: its path has more than %d bytes, too long for the unix sockets below it; choose a shorter one", dir, maxStatePath))
	}
	return errors.Join(errs...)
}

// regionDisk is the size in bytes; 0 if none is wanted.
func (c *Command) regionDisk() (uint64, error) {
	if c.RegionDisk == "" {
		return 0, nil
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("--region-disk: only root may mount disks: start as root, or without --region-disk")
	}
	size, err := humanize.ParseBytes(c.RegionDisk)
	if err != nil || size < leastDisk {
		return 0, fmt.Errorf("--region-disk %q: want a size such as 4GiB, at least 1GiB", c.RegionDisk)
	}
	return size, nil
}

func (c *Command) stateDir() (string, error) {
	dir := c.State
	if dir == "" {
		switch base := os.Getenv("XDG_STATE_HOME"); {
		case os.Geteuid() == 0:
			// Not below /root: PostgreSQL's user must get there.
			dir = "/var/lib/meridian"
		case base != "":
			dir = filepath.Join(base, "meridian")
		default:
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("no home directory; use --state: %w", err)
			}
			dir = filepath.Join(home, ".local", "state", "meridian")
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return abs, nil
}

// Run runs the platform until ctx ends.
func (c *Command) Run(ctx context.Context) error {
	if err := c.Validate(); err != nil {
		return err
	}
	dir, err := c.stateDir()
	if err != nil {
		return err
	}
	table, err := c.table()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("where this program lies: %w", err)
	}
	disk, err := c.regionDisk()
	if err != nil {
		return err
	}
	// Who read what is printed may be gone, as `tee` is after Ctrl-C: that must not end
	// the platform out of order. Children get the signal as ever.
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	defer signal.Stop(gone)
	if c.Isolated {
		// This process is then the network between regions; see oneShare.
		runtime.GOMAXPROCS(coresPerRegion(table))
	}
	backup, err := LoadBackup(c.BackupConfig, c.Restore)
	if err != nil {
		return err
	}
	client := c.ClientConfig
	switch client {
	case "none":
		client = ""
	case "auto":
		if client, err = clientConfigPath(); err != nil {
			return err
		}
	}
	return Run(ctx, Options{Table: table, StateDir: dir, Fresh: c.Fresh, StoresOnly: c.StoresOnly, Isolated: c.Isolated, TLS: c.TLS, RegionDisk: disk, Backup: backup,
		ClientConfig: client, Executable: exe, Program: c.Program, Out: os.Stdout})
}

// table is that of loopback or isolated regions, moved to other addresses if asked.
func (c *Command) table() (*region.Table, error) {
	make := region.Loopback
	if c.Isolated {
		make = region.Isolated
	}
	t, err := make(c.Regions...)
	if err != nil || c.Network == 0 {
		return t, err
	}
	b, err := t.Marshal()
	if err != nil {
		return nil, err
	}
	text := string(b)
	all, err := region.Loopback()
	if err != nil {
		return nil, err
	}
	// From the highest, so that no moved address is moved again.
	for n := len(all.Regions); n > 0; n-- {
		from, to := fmt.Sprintf("127.%d.0.", n), fmt.Sprintf("127.%d.0.", c.Network+n)
		if c.Isolated {
			from, to = fmt.Sprintf("198.18.%d.", n), fmt.Sprintf("198.%d.%d.", 18+c.Network%2, c.Network/2*16+n)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	return region.Parse([]byte(text))
}

// control lists the regions that hold quorum.
func control(t *region.Table) []region.Region {
	return slices.DeleteFunc(slices.Clone(t.Regions), func(r region.Region) bool { return !r.Control })
}
