package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/sony/gobreaker/v2"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
)

// Config is how components reach the object stores; the addresses come from the
// region table.
type Config struct {
	AccessKey service.Secret `help:"S3 access key." required:"" env:"ACCESS_KEY"`
	SecretKey service.Secret `help:"S3 secret key; @FILE reads it from a file." required:"" env:"SECRET_KEY"`
	Bucket    string         `help:"S3 bucket, the same in every region." default:"meridian" env:"BUCKET"`
}

// Deadlines of single requests. A dead region must cost little, a slow one must
// not be taken for dead: the shortest is several times the longest round trip.
const (
	dialTimeout   = 2 * time.Second
	headerTimeout = 5 * time.Second
	// silence is how long a PUT may make no progress before the next region is
	// asked as well, and a body read before it goes on elsewhere.
	silence = 2 * time.Second
	// maxSpreading bounds the PUTs that nobody waits for.
	maxSpreading = 32
)

// Store reads and writes the platform's objects in all regions. Safe for
// concurrent use.
type Store struct {
	table   *region.Table
	self    string
	buckets []*Bucket // own region first, then by round-trip time
	log     *slog.Logger
	// spreading has a place for each PUT that goes on after PutEverywhere.
	spreading chan struct{}
}

// Bucket is one region's bucket.
type Bucket struct {
	Region  string
	name    string
	core    *minio.Core
	tr      *http.Transport
	breaker *gobreaker.CircuitBreaker[any]
}

// New returns a store for a process in region self. It connects lazily.
func New(table *region.Table, self string, cfg Config, log *slog.Logger) (*Store, error) {
	s := &Store{table: table, self: self, log: log, spreading: make(chan struct{}, maxSpreading)}
	for _, r := range table.Nearest(self) {
		b, err := newBucket(r, cfg)
		if err != nil {
			return nil, fmt.Errorf("object store of %s: %w", r.Name, err)
		}
		s.buckets = append(s.buckets, b)
	}
	return s, nil
}

// OpenBucket returns a bucket outside of the region table, which others call by name.
func OpenBucket(name, endpoint string, cfg Config) (*Bucket, error) {
	return newBucket(region.Region{Name: name, S3: endpoint}, cfg)
}

func newBucket(r region.Region, cfg Config) (*Bucket, error) {
	u, err := url.Parse(r.S3)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConnsPerHost:   64,
		MaxConnsPerHost:       256,
		IdleConnTimeout:       time.Minute,
		// A range of an object must be its bytes, never a re-encoding of them.
		DisableCompression: true,
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(cfg.AccessKey.Reveal(), cfg.SecretKey.Reveal(), ""),
		Secure:     u.Scheme == "https",
		Transport:  tr,
		Region:     "us-east-1",
		MaxRetries: 1, // this package decides what is tried again, and where
	})
	if err != nil {
		return nil, err
	}
	return &Bucket{
		Region: r.Name, name: cfg.Bucket, core: core, tr: tr,
		breaker: gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
			Name: r.Name, MaxRequests: 1, Interval: 10 * time.Second, Timeout: time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 3 },
			IsSuccessful: func(err error) bool {
				return err == nil || definite(err) || errors.Is(err, context.Canceled) || errors.As(err, new(*SourceError))
			},
		}),
	}, nil
}

// definite reports whether err is an answer of a healthy store rather than a failure to get one.
func definite(err error) bool {
	code := 0
	var answer minio.ErrorResponse
	if errors.As(err, &answer) { // wherever in the chain: a store without our bucket is alive too
		code = answer.StatusCode
	}
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests
}

// errSilent is the cancellation cause of a request to a region that accepted it
// and then made no progress. It counts against the region, a caller's own
// cancellation does not.
var errSilent = errors.New("no progress")

// cause is errSilent when that is why ctx, and so the request, was cancelled.
func cause(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// guard runs f unless the region failed repeatedly just now.
func (b *Bucket) guard(f func() error) error {
	_, err := b.breaker.Execute(func() (any, error) { return nil, f() })
	if err != nil {
		return fmt.Errorf("%s: %w", b.Region, err)
	}
	return nil
}

// Close drops idle connections. Requests under way go on.
func (b *Bucket) Close() { b.tr.CloseIdleConnections() }

// Close closes all buckets.
func (s *Store) Close() {
	for _, b := range s.buckets {
		b.Close()
	}
}

// Regions returns all buckets, the own region's first, then by round-trip time.
func (s *Store) Regions() []*Bucket { return slices.Clone(s.buckets) }

// Own returns the own region's bucket.
func (s *Store) Own() *Bucket { return s.buckets[0] }

// In returns the named region's bucket, nil when the table has none.
func (s *Store) In(name string) *Bucket {
	i := slices.IndexFunc(s.buckets, func(b *Bucket) bool { return b.Region == name })
	if i < 0 {
		return nil
	}
	return s.buckets[i]
}

// allowed returns the buckets a placement lets objects live in, nearest first.
func (s *Store) allowed(p Placement) []*Bucket {
	return slices.DeleteFunc(s.Regions(), func(b *Bucket) bool { return !p.Allows(b.Region) })
}

// Ready returns nil when at least one region's store answers.
func (s *Store) Ready(ctx context.Context) error {
	var errs []error
	for _, b := range s.buckets {
		err := b.guard(func() error {
			_, err := b.core.BucketExists(ctx, b.name)
			return err
		})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(errs...))
}

// Prepare makes the region's bucket and its health object if they aren't there.
func (b *Bucket) Prepare(ctx context.Context) error {
	ok, err := b.core.BucketExists(ctx, b.name)
	if err != nil {
		return fmt.Errorf("bucket %s in %s: %w", b.name, b.Region, err)
	}
	if !ok {
		err := b.core.MakeBucket(ctx, b.name, minio.MakeBucketOptions{})
		if code := minio.ToErrorResponse(err).Code; err != nil && code != minio.BucketAlreadyOwnedByYou && code != minio.BucketAlreadyExists {
			return fmt.Errorf("make bucket %s in %s: %w", b.name, b.Region, err)
		}
	}
	return b.Put(ctx, HealthKey(b.Region), Bytes(healthBytes(b.Region)))
}

// healthBytes are incompressible-looking but fixed: any process may repeat the PUT.
func healthBytes(region string) []byte {
	out := make([]byte, HealthSize)
	x := uint64(14695981039346656037)
	for _, c := range region {
		x = (x ^ uint64(c)) * 1099511628211
	}
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}
