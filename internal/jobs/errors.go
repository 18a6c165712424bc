package jobs

import (
	"errors"
	"fmt"

	"github.com/meridian-video/meridian/internal/catalog"
)

// InputError says that the source is at fault: it is never tried again.
type InputError struct{ catalog.Failure }

func (e *InputError) Error() string { return e.Code + ": " + e.Detail }

// BadInput returns an InputError: code in kebab case, detail a sentence for the
// person who uploaded.
func BadInput(code, format string, a ...any) error {
	return &InputError{catalog.Failure{Code: code, Detail: fmt.Sprintf(format, a...)}}
}

// permanentError says that trying again can't help though the source isn't at fault.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks an error as ours and not worth another attempt: the task goes
// to the dead letters. Errors that are neither Permanent nor BadInput are tried
// again elsewhere, a bounded number of times.
func Permanent(err error) error { return &permanentError{err} }

// Causes with which a handler's context is cancelled.
var (
	// ErrLost means that another attempt holds the task now.
	ErrLost = errors.New("the task's lease is lost")
	// ErrCancelled means that the task's asset was deleted or has failed.
	ErrCancelled = errors.New("the task was cancelled")
	// ErrStopping means that this worker shuts down; the task is given back.
	ErrStopping = errors.New("the worker is shutting down")
)
