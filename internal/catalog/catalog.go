package catalog

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/puddle/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/sleep"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Config is how components reach PostgreSQL; the hosts come from the region table.
type Config struct {
	User     string         `help:"PostgreSQL user." default:"meridian" env:"USER"`
	Password service.Secret `help:"PostgreSQL password; @FILE reads it from a file." env:"PASSWORD"`
	Database string         `help:"PostgreSQL database." default:"meridian" env:"DATABASE"`
}

// DSN returns the connection string for a comma-separated host:port list
// (region.Table.PostgresDSNHosts).
func (c Config) DSN(hosts string) string {
	u := url.URL{Scheme: "postgres", Host: hosts, Path: "/" + c.Database}
	if c.Password != "" {
		u.User = url.UserPassword(c.User, c.Password.Reveal())
	} else {
		u.User = url.User(c.User)
	}
	return u.String()
}

// Deadlines of a connection and of a call, on top of some round trips to the farthest
// region, for the leader may be there. A leader that went silent costs one call, then
// its pool is left.
const (
	connectTimeout = 2 * time.Second
	queryTimeout   = 5 * time.Second
	roundTrips     = 8
	// replayWait is how long a read waits for a server to replay what it must show.
	replayWait = 100 * time.Millisecond
	maxConns   = 10
)

// Catalog is a connection to the leader and to the nearest server, which is a follower
// or the leader itself. Safe for concurrent use.
type Catalog struct {
	leader, nearest *leavable
	finder          *leaderFinder
	// heard is when the leader answered last.
	heard *hearing
	// timeout is the deadline of a call.
	timeout time.Duration
	// rest is until when the nearest server isn't asked, Unix nanoseconds; 0 while it
	// is well.
	rest atomic.Int64
	// horizon is what the nearest server must know of, and patience how long a read
	// waits for the leader's word on that.
	horizon  horizon
	patience time.Duration
	log      *slog.Logger
}

// Open prepares the pools for dsn, which may name several hosts, the nearest first and
// the farthest of them a round trip of rtt away. It doesn't connect: PostgreSQL may be
// away. Close the catalog when done.
func Open(dsn string, rtt time.Duration, log *slog.Logger) (*Catalog, error) {
	heard := &hearing{}
	finder := newLeaderFinder(connectTimeout+roundTrips*rtt, heard)
	leader, err := newPool(dsn, "read-write", finder.timeout, func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = finder.before
		cfg.ConnConfig.ValidateConnect = takesWrites
		cfg.ConnConfig.Tracer = heard
		// After a leader was left, the next is found before anyone asks for it.
		cfg.MinIdleConns = 1
	})
	if err != nil {
		return nil, err
	}
	nearest, err := newPool(dsn, "any", finder.timeout, nil)
	if err != nil {
		leader.close()
		return nil, err
	}
	return &Catalog{leader: leader, nearest: nearest, finder: finder, heard: heard, timeout: queryTimeout + roundTrips*rtt, patience: replayWait + 2*rtt, horizon: horizon{most: staleMost}, log: log}, nil
}

func newPool(dsn, target string, timeout time.Duration, change func(*pgxpool.Config)) (*leavable, error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The text of a parse error would hold the password.
		return nil, errors.New("PostgreSQL connection string: want postgres://user:password@host:port,host:port/database")
	}
	q := u.Query()
	q.Set("target_session_attrs", target)
	u.RawQuery = q.Encode()
	cfg, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL connection string: %w", err)
	}
	cfg.MaxConns = maxConns
	cfg.MaxConnLifetime = 5 * time.Minute
	cfg.MaxConnIdleTime = time.Minute
	cfg.HealthCheckPeriod = time.Second
	cfg.ConnConfig.ConnectTimeout = timeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "meridian"
	// A client that freezes within a transaction must not keep its locks.
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "10s"
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = "4s"
	if change != nil {
		change(cfg)
	}
	return newLeavable(cfg)
}

// Close ends all connections, after the calls under way.
func (c *Catalog) Close() {
	c.finder.stop()
	c.horizon.close()
	c.leader.close()
	c.nearest.close()
}

// migrateLock is the advisory lock only one process migrates under.
const migrateLock = 0x6d65726964 // "merid"

// A process that is far from the leader looks every migrateLook whether a nearer one
// migrates, for at most leaveMigrating. It would take a round trip for each statement,
// and all others would wait for it.
const (
	migrateLook    = 250 * time.Millisecond
	leaveMigrating = 5 * time.Second
)

// Migrate brings the schema up to date on the leader, one process at a time, one that
// is near the leader if there is any. It returns ErrUnavailable while there is no
// leader.
func (c *Catalog) Migrate(ctx context.Context) error {
	for began := time.Now(); ; {
		asked := time.Now()
		have, want, err := c.version(ctx)
		if err != nil || have >= want {
			return err
		}
		if time.Since(asked) <= FarRTT || time.Since(began) > leaveMigrating {
			return c.migrate(ctx)
		}
		if err := sleep.For(ctx, migrateLook); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
	}
}

func (c *Catalog) migrate(ctx context.Context) error {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrateLock), lock.WithLockTimeout(1, 30))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	sqlDB := stdlib.OpenDBFromPool(c.leader.pool())
	defer sqlDB.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, sqlDB, files, goose.WithSessionLocker(locker), goose.WithSlog(c.log))
	if err != nil {
		return wrap("migrate", err)
	}
	_, err = provider.Up(ctx)
	return wrap("migrate", err)
}

// Ready returns nil when a leader answers and has this version's schema.
func (c *Catalog) Ready(ctx context.Context) error {
	have, want, err := c.version(ctx)
	if err == nil && have < want {
		return fmt.Errorf("PostgreSQL schema is at version %d, this program needs %d: an api of this version migrates it", have, want)
	}
	return err
}

// version returns the version of the leader's schema and the one this program needs.
func (c *Catalog) version(ctx context.Context) (have, want int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if want, err = newestMigration(); err != nil {
		return 0, 0, err
	}
	err = c.leader.pool().QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&have)
	if err != nil && sqlState(err) != "42P01" { // undefined_table: never migrated
		return 0, 0, wrap("PostgreSQL leader", err)
	}
	return have, want, nil
}

func newestMigration() (int64, error) {
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil || len(entries) == 0 {
		return 0, errors.Join(errors.New("no migrations in the program"), err)
	}
	return goose.NumericComponent(entries[len(entries)-1].Name())
}

// write runs fn in a transaction on the leader. A leader that turns out to be
// demoted or gone is left; what certainly didn't happen there is tried once more.
func (c *Catalog) write(ctx context.Context, what string, fn func(q *db.Queries) error) error {
	s := sessionFrom(ctx)
	var lsn string
	err := c.onLeader(ctx, func(ctx context.Context) (err error) {
		lsn, err = inTx(ctx, c.leader.pool(), s != nil, fn)
		return err
	})
	if err == nil && s != nil {
		s.wrote(lsn)
	}
	return wrap(what, err)
}

// direct runs fn, a single statement or reads, on the leader.
func (c *Catalog) direct(ctx context.Context, what string, fn func(ctx context.Context, q *db.Queries) error) error {
	return wrap(what, c.onLeader(ctx, func(ctx context.Context) error { return fn(ctx, db.New(c.leader.pool())) }))
}

// onLeader runs fn with a deadline. A leader that turns out to be demoted, gone
// or silent is left; a write that certainly had no effect there is tried once more,
// on the new one. A leader that is only slow is kept: connections to another one
// would begin anew, and be later still.
func (c *Catalog) onLeader(ctx context.Context, fn func(ctx context.Context) error) error {
	tctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var err error
	for range 2 {
		left := c.finder.left()
		actx, stop := c.unlessSilent(tctx)
		err = fn(actx)
		stop()
		if err != nil && context.Cause(actx) == errSilent {
			err = fmt.Errorf("%w: %w", errSilent, err)
		}
		if err == nil || ctx.Err() != nil || !lost(err) { // the caller's own end says nothing about the leader
			return err
		}
		state := sqlState(err)
		if state != "" && state != readOnly && !strings.HasPrefix(state, "57P") || timedOut(err) && !errors.Is(err, errSilent) {
			return err
		}
		c.leave(left)
		uncommitted := (*uncommittedError)(nil)
		if again := state == readOnly || errors.As(err, &uncommitted) || errors.Is(err, puddle.ErrClosedPool); !again || tctx.Err() != nil {
			return err
		}
	}
	return err
}

// errSilent ends calls to a leader that answers nobody.
var errSilent = errors.New("the leader has fallen silent")

// unlessSilent returns a context that ends when the leader has answered nobody for
// half a call's deadline. stop releases it.
func (c *Catalog) unlessSilent(ctx context.Context) (_ context.Context, stop func()) {
	patience := c.timeout / 2
	ctx, cancel := context.WithCancelCause(ctx)
	last := time.Now()
	var mu sync.Mutex // the timer may fire before it is known here
	mu.Lock()
	defer mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if heard := c.heard.at(); heard.After(last) {
			last = heard
		} else if !c.finder.found() {
			last = time.Now() // nobody is asked
		}
		if quiet := time.Since(last); quiet < patience {
			t.Reset(patience - quiet)
			return
		}
		cancel(errSilent)
	})
	return ctx, func() { t.Stop(); cancel(nil) }
}

// leave drops the connections to a leader that failed someone who began when as
// many leaders had been left. Who began before the last was left says nothing
// about the connections made since.
func (c *Catalog) leave(left int) {
	if c.finder.forget(left) {
		c.leader.leave()
	}
}

// readOnly is the SQLSTATE of a write on a standby: it certainly had no effect.
const readOnly = "25006"

// read runs fn on the nearest server if that has replayed what the session of ctx
// wrote, and what anyone committed more than staleMost ago, else on the leader. That a
// row isn't there is the leader's to say.
func (c *Catalog) read(ctx context.Context, what string, fn func(ctx context.Context, q *db.Queries) error) error {
	if !c.mayAsk() {
		return c.direct(ctx, what, fn)
	}
	err := c.onNearest(ctx, fn)
	if err == nil || !lost(err) {
		c.rest.Store(0)
	}
	switch {
	case errors.Is(err, errBehind), errors.Is(err, errNoRows):
		// A server that lags, or belongs to a region that was cut off until now,
		// can't say that there is no such row.
		return c.direct(ctx, what, fn)
	case err != nil && lost(err) && ctx.Err() == nil:
		c.rest.Store(time.Now().Add(nearestRest).UnixNano())
		c.nearest.leave()
		return c.direct(ctx, what, fn)
	}
	return wrap(what, err)
}

// nearestRest is how long a nearest server that failed isn't asked. One that hangs
// would cost every read half a deadline, and a request has several.
const nearestRest = 5 * time.Second

// mayAsk reports whether a read may ask the nearest server. After its rest one tries it,
// the others go on asking the leader meanwhile.
func (c *Catalog) mayAsk() bool {
	rest, now := c.rest.Load(), time.Now()
	return rest == 0 || now.UnixNano() >= rest && c.rest.CompareAndSwap(rest, now.Add(nearestRest).UnixNano())
}

var errBehind = errors.New("the nearest server hasn't replayed what it would have to show")

func (c *Catalog) onNearest(ctx context.Context, fn func(ctx context.Context, q *db.Queries) error) error {
	own, leaderOnly := sessionFrom(ctx).position()
	if leaderOnly {
		return errBehind
	}
	lsn := later(own, c.mustHaveReplayed(ctx))
	// A server that hangs must leave time to ask the leader.
	ctx, cancel := context.WithTimeout(ctx, c.timeout/2)
	defer cancel()
	conn, err := c.nearest.pool().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	q := db.New(conn)
	if lsn != "" {
		deadline := time.Now().Add(replayWait)
		for {
			ok, err := q.Replayed(ctx, lsn)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			if time.Now().After(deadline) {
				return errBehind
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(replayWait / 10):
			}
		}
	}
	return fn(ctx, q)
}

// Session carries how far a client's own writes have come, so that its reads
// show them. Put it into the context of every call made for one request.
type Session struct {
	mu     sync.Mutex
	lsn    string
	leader bool
}

// ParseSession reads the value of a Meridian-Session header; anything that
// isn't one gives an empty session.
func ParseSession(header string) *Session {
	s := &Session{}
	if at, ok := parseLSN(header); ok {
		s.lsn = fmt.Sprintf("%X/%X", at>>32, uint32(at))
	}
	return s
}

// parseLSN reads a position in the write-ahead log, as pg_lsn is written.
func parseLSN(s string) (uint64, bool) {
	var hi, lo uint32
	n, err := fmt.Sscanf(s, "%X/%X", &hi, &lo)
	return uint64(hi)<<32 | uint64(lo), n == 2 && err == nil
}

// later returns the later of two positions; what isn't one is before all others.
func later(a, b string) string {
	pa, _ := parseLSN(a)
	if pb, ok := parseLSN(b); ok && pb >= pa {
		return b
	}
	return a
}

// Header is the value for Meridian-Session, empty if nothing was written or read so far.
func (s *Session) Header() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lsn
}

// wrote notes the position of a write. Without one later reads of the session use the
// leader: slower, never stale.
func (s *Session) wrote(lsn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = lsn == ""
	if !s.leader {
		s.lsn = lsn
	}
}

func (s *Session) position() (lsn string, leaderOnly bool) {
	if s == nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lsn, s.leader
}

type sessionKey struct{}

// WithSession returns a context whose calls belong to s.
func WithSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

func sessionFrom(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}
