package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"

	"github.com/dustin/go-humanize"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
)

// Command is `meridian archive`.
type Command struct {
	Save    SaveCommand    `cmd:"" help:"Copy to the archive what it lacks. Run it every few minutes, or hours."`
	Restore RestoreCommand `cmd:"" help:"Bring the objects that a restored database names into empty stores; nothing else may run meanwhile."`
	Trim    TrimCommand    `cmd:"" help:"Remove from the archive what no region has any more, such as deleted assets."`
}

// Target is the archive's bucket, which S3 server it is on, and who asks.
type Target struct {
	Endpoint  string         `help:"URL of the archive's S3 server." required:"" env:"ENDPOINT" placeholder:"URL"`
	AccessKey service.Secret `help:"S3 access key of the archive." required:"" env:"ACCESS_KEY"`
	SecretKey service.Secret `help:"S3 secret key of the archive; @FILE reads it from a file." required:"" env:"SECRET_KEY"`
	Bucket    string         `help:"Bucket of the archive; made if it is not there." default:"meridian-archive" env:"BUCKET"`
}

// Settings of every subcommand.
type Settings struct {
	region.View `embed:""`
	S3          objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
	Archive     Target         `embed:"" prefix:"archive-" envprefix:"MERIDIAN_ARCHIVE_"`
	Parallel    int            `help:"Objects copied at a time." default:"8"`
	JSON        bool           `name:"json" help:"Print the report as JSON."`

	// Out defaults to standard output.
	Out io.Writer `kong:"-"`

	table *region.Table
}

// Validate names every problem.
func (s *Settings) Validate() error {
	var errs []error
	t, err := s.Load()
	if err != nil {
		errs = append(errs, err)
	}
	s.table = t
	if u, err := url.Parse(s.Archive.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("--archive-endpoint %q: want a URL such as https://s3.example.org", s.Archive.Endpoint))
	} else if t != nil {
		for _, r := range t.Regions {
			if r.S3 == s.Archive.Endpoint && s.S3.Bucket == s.Archive.Bucket {
				errs = append(errs, fmt.Errorf("--archive-endpoint %s: that is %s's own bucket", s.Archive.Endpoint, r.Name))
			}
		}
	}
	if s.Parallel < 1 || s.Parallel > 64 {
		errs = append(errs, fmt.Errorf("--parallel %d: want 1 to 64", s.Parallel))
	}
	return errors.Join(errs...)
}

// open returns the archive and what closes it.
func (s *Settings) open() (*Archive, func(), error) {
	if err := s.Validate(); err != nil {
		return nil, nil, fmt.Errorf("archive: configuration is not valid:\n%w", err)
	}
	if s.Out == nil {
		s.Out = os.Stdout
	}
	store, err := objects.New(s.table, s.Region, s.S3, slog.New(slog.DiscardHandler)) // what goes wrong is in the report
	if err != nil {
		return nil, nil, err
	}
	b, err := objects.OpenBucket("archive", s.Archive.Endpoint, objects.Config{AccessKey: s.Archive.AccessKey, SecretKey: s.Archive.SecretKey, Bucket: s.Archive.Bucket})
	if err != nil {
		store.Close()
		return nil, nil, fmt.Errorf("archive: %w", err)
	}
	return &Archive{Bucket: b, Store: store, Parallel: s.Parallel}, func() { b.Close(); store.Close() }, nil
}

func (s *Settings) print(r *Report, what string) error {
	if s.JSON {
		return json.NewEncoder(s.Out).Encode(r)
	}
	line := fmt.Sprintf("%d objects %s (%s), %d were there", r.Objects, what, humanize.Bytes(uint64(r.Bytes)), r.Present)
	if r.Later > 0 {
		line += fmt.Sprintf(", %d came after what the database knows and stay behind", r.Later)
	}
	if r.Failed > 0 {
		line += fmt.Sprintf(", %d failed", r.Failed)
	}
	_, err := fmt.Fprintln(s.Out, line)
	for _, f := range r.Findings {
		if err == nil {
			_, err = fmt.Fprintln(s.Out, f)
		}
	}
	return err
}

// SaveCommand is `meridian archive save`.
type SaveCommand struct{ Settings }

// Run copies and prints.
func (c *SaveCommand) Run(ctx context.Context) error {
	a, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	r, err := a.Save(ctx)
	return errors.Join(c.print(r, "copied"), err)
}

// TrimCommand is `meridian archive trim`.
type TrimCommand struct{ Settings }

// Run removes and prints.
func (c *TrimCommand) Run(ctx context.Context) error {
	a, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	r, err := a.Trim(ctx)
	return errors.Join(c.print(r, "removed"), err)
}

// RestoreCommand is `meridian archive restore`.
type RestoreCommand struct {
	Settings
	Postgres catalog.Config `embed:"" prefix:"postgres-" envprefix:"MERIDIAN_POSTGRES_"`
	Again    bool           `help:"Go on with a restore that failed: the stores may hold a part of it."`
}

// Run brings objects back and prints.
func (c *RestoreCommand) Run(ctx context.Context) error {
	a, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	cat, err := catalog.Open(c.Postgres.DSN(c.table.PostgresDSNHosts(c.Region)), c.table.Farthest(c.Region), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer cat.Close()
	r, err := a.Restore(ctx, cat, c.Again)
	return errors.Join(c.print(r, "brought back"), err)
}
