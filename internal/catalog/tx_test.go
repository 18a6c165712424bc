package catalog

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/testenv"
)

// wire stands between a catalog and its server: it counts round trips, and breaks
// connections like a server that dies.
type wire struct {
	addr   string
	mu     sync.Mutex
	asking bool
	trips  int
	// dieAt is the round trip before whose answer all connections break, 0 for none.
	dieAt int
}

// overWire opens a catalog whose server is reached over a wire.
func overWire(t *testing.T, dsn string) (*Catalog, *wire) {
	t.Helper()
	c, wires := overWires(t, dsn, 1)
	return c, wires[0]
}

// overWires opens a catalog whose server passes for n, each reached over a wire.
func overWires(t *testing.T, dsn string, n int) (*Catalog, []*wire) {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	var wires []*wire
	var hosts []string
	for range n {
		w, host := newWire(t, u.Host)
		wires, hosts = append(wires, w), append(hosts, host)
	}
	u.Host = strings.Join(hosts, ",")
	c, err := Open(u.String(), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, wires
}

// newWire returns a wire to a server and the address of its near end.
func newWire(t *testing.T, addr string) (*wire, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{addr: addr}
	var g errgroup.Group
	g.Go(func() error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			g.Go(func() error { return w.carry(conn) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.NoError(t, g.Wait())
	})
	return w, l.Addr().String()
}

func (w *wire) carry(client net.Conn) error {
	server, err := net.Dial("tcp", w.addr)
	if err != nil {
		client.Close()
		return err
	}
	var g errgroup.Group
	pass := func(to, from net.Conn, note func() bool) func() error {
		return func() error {
			defer client.Close()
			defer server.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := from.Read(buf)
				if n > 0 && !note() {
					return nil
				}
				if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
					return nil // one of them has left
				}
			}
		}
	}
	g.Go(pass(server, client, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asking = true
		return true
	}))
	g.Go(pass(client, server, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asking {
			w.asking = false
			w.trips++
		}
		return w.dieAt == 0 || w.trips != w.dieAt
	}))
	return g.Wait()
}

// count returns how many round trips a call takes: the least of some, for the pools
// have their own traffic too.
func (w *wire) count(t *testing.T, call func() error) int {
	t.Helper()
	least := math.MaxInt
	for range 3 {
		w.dieBefore(0)
		require.NoError(t, call())
		w.mu.Lock()
		least = min(least, w.trips)
		w.mu.Unlock()
	}
	return least
}

// dieBefore has the server die before it answers the nth round trip from now.
func (w *wire) dieBefore(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trips, w.dieAt = 0, n
}

func TestRoundTrips(t *testing.T) {
	c, w := overWire(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	ctx := WithSession(t.Context(), ParseSession(""))
	a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	rename := func(title string) func() error {
		return func() error {
			_, err := c.UpdateAsset(ctx, "ann", a.ID, &title, nil)
			return err
		}
	}
	require.Equal(t, 2, w.count(t, rename("renamed")))
	up, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: -1})
	require.NoError(t, err)
	parts := 0
	require.Equal(t, 3, w.count(t, func() error {
		parts++
		return c.AppendPart(ctx, up.ID, Part{N: parts - 1, ID: "p", Start: int64(parts - 1), Size: 1, SHA256: hash("p"), Regions: []string{"eu"}}, false)
	}))
	got, err := c.GetAsset(ctx, "ann", a.ID)
	require.NoError(t, err)
	require.Equal(t, "renamed", got.Title)
}

// A leader that dies before it was asked to commit can't have committed: the write
// happens on the next. If it dies in the commit nobody knows.
func TestLeaderDiesWithinAWrite(t *testing.T) {
	c, w := overWire(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	rename := func(title string) error {
		_, err := c.UpdateAsset(t.Context(), "ann", a.ID, &title, nil)
		return err
	}
	require.NoError(t, rename("warm"))
	w.dieBefore(1)
	require.NoError(t, rename("retried"))
	require.Equal(t, "retried", one[string](t, c, "SELECT title FROM assets WHERE id = $1", a.ID))
	require.EqualValues(t, 1, c.finder.left())

	require.NoError(t, rename("warm"))
	w.dieBefore(2)
	require.ErrorIs(t, rename("in doubt"), ErrUnavailable)
	require.EqualValues(t, 2, c.finder.left())
	w.dieBefore(0)
	require.NoError(t, rename("after"))
}

// A statement that waited fails with the one it travels with; the transaction is
// rolled back and its connection used again.
func TestWaitingStatementFails(t *testing.T) {
	c := fresh(t)
	a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	fail := func(then func(*db.Queries) error) error {
		return c.write(t.Context(), "fail", func(q *db.Queries) error {
			title := "never"
			if err := q.UpdateAsset(t.Context(), title, "public", a.ID); err != nil {
				return err
			}
			if err := q.InsertRun(t.Context(), "nobody's", 1, "default"); err != nil { // violates a foreign key
				return err
			}
			return then(q)
		})
	}
	nothing := func(*db.Queries) error { return nil }
	single := func(q *db.Queries) error { _, err := q.GetAsset(t.Context(), a.ID); return err }
	many := func(q *db.Queries) error { _, err := q.Chunks(t.Context(), a.ID, 1, "v"); return err }
	rows := func(q *db.Queries) error { _, err := q.RevokeKey(t.Context(), "k", "ann"); return err }
	for _, then := range []func(*db.Queries) error{nothing, single, many, rows} {
		require.Equal(t, "23503", sqlState(fail(then)))
		got, err := c.GetAsset(t.Context(), "ann", a.ID)
		require.NoError(t, err)
		require.Empty(t, got.Title)
	}
	require.LessOrEqual(t, c.leader.pool().Stat().NewConnsCount(), int64(2), "the one used and an idle one")
	require.ErrorIs(t, c.write(t.Context(), "nothing", func(*db.Queries) error { return io.EOF }), io.EOF)
	require.NoError(t, c.write(t.Context(), "nothing", nothing))
}

// A write that hadn't come to its COMMIT when the leader fell silent happens on the
// next one, within the same call.
func TestSilentLeaderIsLeftWithinAWrite(t *testing.T) {
	c, w := overWire(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	w.mu.Lock() // nothing passes, until it is left
	var healed sync.WaitGroup
	written, done := context.WithCancel(t.Context())
	healed.Go(func() {
		defer w.mu.Unlock()
		for c.finder.left() == 0 && written.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	})
	title := "renamed"
	begin := time.Now()
	_, err = c.UpdateAsset(t.Context(), "ann", a.ID, &title, nil)
	done()
	healed.Wait()
	require.NoError(t, err)
	require.Greater(t, time.Since(begin), c.timeout/2)
	require.EqualValues(t, 1, c.finder.left())
}

// Only a leader that answers nobody is left for being late.
func TestSlowLeaderIsKept(t *testing.T) {
	c, w := overWire(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	c.timeout = 3 * time.Second // half of it is longer than a busy machine keeps those who ask waiting
	slow := func() error {
		return c.direct(t.Context(), "sleep", func(ctx context.Context, _ *db.Queries) error {
			_, err := c.leader.pool().Exec(ctx, "SELECT pg_sleep(60)")
			return err
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error {
		for ctx.Err() == nil {
			if _, err := c.leader.pool().Exec(t.Context(), "SELECT 1"); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	require.ErrorIs(t, slow(), ErrUnavailable)
	require.Zero(t, c.finder.left())
	stop()
	require.NoError(t, g.Wait())
	w.mu.Lock() // nothing passes
	err := slow()
	w.mu.Unlock()
	require.ErrorIs(t, err, ErrUnavailable)
	require.EqualValues(t, 1, c.finder.left())
}

// A leader that hangs keeps nobody from the next one, however many asked it: pgx says
// goodbye to each of its connections for fifteen seconds.
func TestHungLeaderKeepsNoPlaces(t *testing.T) {
	c, wires := overWires(t, testenv.Postgres(t), 2)
	c.timeout = 9 * time.Second
	lost, next := wires[0], wires[1]
	next.mu.Lock() // it doesn't lead yet
	ask := func(statement string) error {
		return c.direct(t.Context(), "ask", func(ctx context.Context, _ *db.Queries) error {
			_, err := c.leader.pool().Exec(ctx, statement)
			return err
		})
	}
	require.NoError(t, ask("SELECT 1"))
	var g errgroup.Group
	for range maxConns {
		g.Go(func() error {
			if ask("SELECT pg_sleep(60)") == nil {
				return errors.New("a hung leader answered")
			}
			return nil
		})
	}
	require.Eventually(t, func() bool { return c.leader.pool().Stat().AcquiredConns() == maxConns }, c.timeout/3, time.Millisecond)
	lost.mu.Lock()
	defer lost.mu.Unlock() // its connections end with the wire
	next.mu.Unlock()
	require.NoError(t, g.Wait())
	require.NoError(t, ask("SELECT 1"))
}

// A leader without room takes nothing now, and later perhaps: nobody is to blame for
// what they asked.
func TestNoRoomIsUnavailable(t *testing.T) {
	c := fresh(t)
	sql(t, c, `CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$`)
	sql(t, c, "CREATE TRIGGER no_room BEFORE INSERT ON api_keys EXECUTE FUNCTION no_room()")
	_, _, err := c.CreateKey(t.Context(), "ann", "laptop", RoleWrite)
	require.ErrorIs(t, err, ErrUnavailable)
	sql(t, c, "DROP TRIGGER no_room ON api_keys")
	_, _, err = c.CreateKey(t.Context(), "ann", "laptop", RoleWrite)
	require.NoError(t, err)
}
