package catalog

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/meridian-video/meridian/internal/catalog/db"
)

// tx is a transaction that spares round trips, of which each costs a region that
// is far from the leader as much as all work on the rows together. Statements
// nobody reads a result of (sqlc's :exec), BEGIN first of all, wait and travel with
// the next one that is read, or with COMMIT, in one pipeline. If one of them fails,
// that one's reader gets the error, and the server executes nothing that follows.
//
// Not safe for concurrent use; it implements db.DBTX. Its statements end with ctx,
// which is derived from the one they are given.
type tx struct {
	ctx     context.Context
	conn    *pgx.Conn
	waiting pgx.Batch
	// sent says that the server may know of the transaction, committing that it may
	// have committed it.
	sent, committing bool
}

// inTx runs fn in a transaction on a connection of pool. With wantPosition it returns the
// position in the write-ahead log after the commit, empty if that couldn't be read.
func inTx(ctx context.Context, pool *pgxpool.Pool, wantPosition bool, fn func(q *db.Queries) error) (lsn string, err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return "", &uncommittedError{err}
	}
	defer conn.Release()
	t := &tx{ctx: ctx, conn: conn.Conn()}
	t.waiting.Queue("begin")
	if err = fn(db.New(t)); err == nil {
		lsn, err = t.commit(wantPosition)
	}
	if err != nil {
		t.rollback()
		if !t.committing {
			err = &uncommittedError{err}
		}
	}
	return lsn, err
}

// uncommittedError is an error from before COMMIT was sent: certainly nothing happened.
type uncommittedError struct{ error }

func (e *uncommittedError) Unwrap() error { return e.error }

// Exec keeps a statement waiting, or executes it if its number of rows is asked for.
func (t *tx) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	t.waiting.Queue(sql, args...)
	// The first line that sqlc gives each statement is "-- name: Name :kind".
	if first, _, _ := strings.Cut(sql, "\n"); strings.HasSuffix(first, " :exec") {
		return pgconn.CommandTag{}, nil
	}
	results, err := t.send(1)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	return tag, closeResults(results, err)
}

// Query executes what waits and the statement.
func (t *tx) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	t.waiting.Queue(sql, args...)
	results, err := t.send(1)
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, closeResults(results, err)
	}
	return &txRows{Rows: rows, results: results}, nil
}

// QueryRow executes what waits and the statement.
func (t *tx) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	t.waiting.Queue(sql, args...)
	results, err := t.send(1)
	return &txRow{results: results, err: err}
}

// send sends all that waits, and reads all results but the last ones.
func (t *tx) send(last int) (pgx.BatchResults, error) {
	batch := t.waiting
	t.waiting, t.sent = pgx.Batch{}, true
	results := t.conn.SendBatch(t.ctx, &batch)
	for range batch.Len() - last {
		if _, err := results.Exec(); err != nil {
			return nil, closeResults(results, err)
		}
	}
	return results, nil
}

func (t *tx) commit(wantPosition bool) (lsn string, err error) {
	if !t.sent && t.waiting.Len() == 1 {
		return "", nil // nothing but BEGIN
	}
	t.waiting.Queue("commit")
	last := 1
	if wantPosition {
		t.waiting.Queue(position)
		last++
	}
	t.committing = true
	results, err := t.send(last)
	if err != nil {
		return "", err
	}
	tag, err := results.Exec()
	if err == nil && tag.String() != "COMMIT" {
		err = pgx.ErrTxCommitRollback
	}
	if err != nil {
		return "", closeResults(results, err)
	}
	if wantPosition && results.QueryRow().Scan(&lsn) != nil {
		lsn = ""
	}
	// From here on errors are the connection's: it isn't used again, and the commit stands.
	_ = results.Close()
	return lsn, nil
}

// rollback ends a transaction that failed. If it can't, the pool closes the connection.
func (t *tx) rollback() {
	if !t.sent || t.conn.IsClosed() || t.conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), rollbackTimeout)
	defer cancel()
	_, _ = t.conn.Exec(ctx, "rollback")
}

const rollbackTimeout = 2 * time.Second

// closeResults ends a pipeline. Its first error is err, if there was one.
func closeResults(results pgx.BatchResults, err error) error {
	closing := results.Close()
	if err != nil {
		return err
	}
	return closing
}

// txRows ends its pipeline when it is closed.
type txRows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error
}

func (r *txRows) Close() {
	r.Rows.Close()
	r.err = r.results.Close()
}

func (r *txRows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.Close() // as all rows do at their end, so that Err says all
	}
	return more
}

func (r *txRows) Err() error { return cmp.Or(r.Rows.Err(), r.err) }

type txRow struct {
	results pgx.BatchResults
	err     error
}

func (r *txRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return closeResults(r.results, r.results.QueryRow().Scan(dest...))
}
