package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

var (
	// ErrNotFound is returned for rows that don't exist, belong to another owner or are deleted.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that PostgreSQL couldn't be reached or had no leader: try again.
	ErrUnavailable = errors.New("catalog is unavailable")
	// ErrFenced means that a newer attempt holds the task, or that it was cancelled: stop, drop the result.
	ErrFenced = errors.New("task is held by another attempt or cancelled")
	// ErrHeld means that another attempt holds the task, or that it rests after a failure: ask again later.
	ErrHeld = errors.New("task is not to be had now")
	// ErrBuild means that a task is for workers that encode with what its run was begun with.
	ErrBuild = errors.New("task is for workers of another build")
	// ErrInit means that a chunk can't be shown with those its run has: it has another
	// initialisation segment. Only another run helps.
	ErrInit = errors.New("another initialisation segment")
	// ErrKeyReuse means that an idempotency key was used before for a different request.
	ErrKeyReuse = errors.New("idempotency key was used for a different request")
	// ErrState means that the row isn't in a state that allows the operation.
	ErrState = errors.New("not possible in this state")
	// ErrUnauthorized means that an API key is unknown or revoked.
	ErrUnauthorized = errors.New("API key is unknown or revoked")
)

// errNoRows is what queries return for :one without a row.
var errNoRows = pgx.ErrNoRows

// OffsetError says at which offset an upload really stands.
type OffsetError struct{ Want, Got int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("upload stands at offset %d, not %d", e.Want, e.Got)
}

// wrap classifies an error of the driver, so that callers see this package's
// errors and the cause in the text.
func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case lost(err):
		return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// lost reports whether err says that this server can't take the statement now,
// while another, or the same one later, could.
func lost(err error) bool {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		switch pg.Code {
		case readOnly, // a demoted leader
			"57P01", "57P02", "57P03", // admin_shutdown, crash_shutdown, cannot_connect_now
			"57014", "55P03", "40P01", // query_canceled, lock_not_available, deadlock_detected
			"25P03": // idle_in_transaction_session_timeout
			return true
		}
		// Connections, and what there is too little of: room on the disk, memory, connections.
		return len(pg.Code) == 5 && (pg.Code[:2] == "08" || pg.Code[:2] == "53")
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) || timedOut(err) || errors.Is(err, errSilent) ||
		errors.Is(err, io.ErrUnexpectedEOF) || // the server died while it was asked
		errors.Is(err, puddle.ErrClosedPool) // it was left just now
}

func timedOut(err error) bool {
	return pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded)
}

// constraint reports whether err violates the named constraint.
func constraint(err error, name string) bool {
	pg := (*pgconn.PgError)(nil)
	return errors.As(err, &pg) && pg.ConstraintName == name
}

// sqlState is the SQLSTATE of an error the server reported, else empty.
func sqlState(err error) string {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
