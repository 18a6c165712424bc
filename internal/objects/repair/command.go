package repair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
)

// Command is `meridian reconcile`: a check of all stores against the catalog,
// which changes nothing. It fails unless everything is where it belongs.
type Command struct {
	region.View `embed:""`
	S3          objects.Config `embed:"" prefix:"s3-" envprefix:"MERIDIAN_S3_"`
	Postgres    catalog.Config `embed:"" prefix:"postgres-" envprefix:"MERIDIAN_POSTGRES_"`
	Read        bool           `help:"Read every object and compare its bytes with its SHA-256, not only its size."`
	Parallel    int            `help:"Objects read at a time." default:"8"`
	Settled     time.Duration  `help:"Age from which an object that the catalog doesn't name is foreign; younger ones may be of work under way." default:"1h"`
	JSON        bool           `name:"json" help:"Print the report as JSON."`

	// Out defaults to standard output.
	Out io.Writer `kong:"-"`

	table *region.Table
}

// Validate names every problem.
func (c *Command) Validate() error {
	var errs []error
	t, err := c.Load()
	if err != nil {
		errs = append(errs, err)
	}
	c.table = t
	if c.Parallel < 1 || c.Parallel > 64 {
		errs = append(errs, fmt.Errorf("--parallel %d: want 1 to 64", c.Parallel))
	}
	if c.Settled < 0 {
		errs = append(errs, fmt.Errorf("--settled %v: want 0s or more", c.Settled))
	}
	return errors.Join(errs...)
}

// Run compares and prints.
func (c *Command) Run(ctx context.Context) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("reconcile: configuration is not valid:\n%w", err)
	}
	if c.Out == nil {
		c.Out = os.Stdout
	}
	quiet := slog.New(slog.DiscardHandler) // what goes wrong is in the report
	store, err := objects.New(c.table, c.Region, c.S3, quiet)
	if err != nil {
		return err
	}
	defer store.Close()
	cat, err := catalog.Open(c.Postgres.DSN(c.table.PostgresDSNHosts(c.Region)), c.table.Farthest(c.Region), quiet)
	if err != nil {
		return err
	}
	defer cat.Close()
	check := &Check{Store: store, Catalog: cat, Settled: c.Settled, Read: c.Read, Parallel: c.Parallel, Copies: c.table.Copies()}
	report, err := check.Run(ctx)
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	if c.JSON {
		err = json.NewEncoder(c.Out).Encode(report)
	} else {
		err = report.Print(c.Out)
	}
	return errors.Join(err, report.Err())
}
