package upload

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// Config bounds what uploads may take.
type Config struct {
	MaxBytes int64 `help:"Largest file accepted, in bytes." default:"68719476736" env:"MAX_BYTES"`
	MaxOpen  int   `help:"Uploads received at the same time; one more gets 503 with Retry-After." default:"32" env:"MAX_OPEN"`
	Early    bool  `help:"Begin to encode while a file is uploaded, where its container allows it." default:"true" negatable:"" env:"EARLY"`
	// Spool space is at most 2 × PartBytes × MaxOpen.
	PartBytes int64  `help:"Size of a stored part of a source, in bytes." default:"33554432" env:"PART_BYTES"`
	SpoolDir  string `help:"Directory for parts on their way to storage; needs up to 2 × part-bytes × max-open." env:"SPOOL_DIR" placeholder:"DIR"`
}

const (
	minPart = 64 << 10
	maxPart = 1 << 30
	// firstPart is where part sizes start to double, so that the head of a
	// source is there early.
	firstPart = 8 << 20
)

// Validate lists every problem.
func (c *Config) Validate() error {
	var errs []error
	if c.SpoolDir == "" {
		c.SpoolDir = os.TempDir()
	}
	if c.MaxBytes < 1 {
		errs = append(errs, fmt.Errorf("--upload-max-bytes %d: want at least 1", c.MaxBytes))
	}
	if c.MaxOpen < 1 {
		errs = append(errs, fmt.Errorf("--upload-max-open %d: want at least 1", c.MaxOpen))
	}
	if c.PartBytes < minPart || c.PartBytes > maxPart {
		errs = append(errs, fmt.Errorf("--upload-part-bytes %d: want %d to %d", c.PartBytes, minPart, maxPart))
	}
	if i, err := os.Stat(c.SpoolDir); err != nil || !i.IsDir() {
		errs = append(errs, fmt.Errorf("--upload-spool-dir %s: want a directory that exists", c.SpoolDir))
	}
	return errors.Join(errs...)
}

// Times.
const (
	// networkTimeout is how long a connection may bring nothing.
	networkTimeout = 20 * time.Second
	// completion is how long a broken request's last part may take to be stored.
	completion = 20 * time.Second
	// lockTimeout is how long a request waits for an older one to save and end.
	lockTimeout = 10 * time.Second
	// flushAfter closes a part that fills slowly, so that little is sent again
	// after a process dies.
	flushAfter = 20 * time.Second
	// patience is how long one step is tried again while the database or the
	// stores are away.
	patience = 12 * time.Second
)
