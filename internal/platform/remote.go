package platform

import (
	"context"
	"net/url"
	"path/filepath"
)

// Remote is the platform that runs on a state directory, as other programs of
// this machine see it, through its control socket.
type Remote struct {
	// StateDir as given to up; empty is the default one.
	StateDir string
}

// Path is the path of a file in the state directory.
func (r Remote) Path(elem ...string) (string, error) {
	dir, err := (&Command{State: r.StateDir}).stateDir()
	return filepath.Join(append([]string{dir}, elem...)...), err
}

// Status asks how the platform is. The error is an *Error of code NotRunning if
// none runs.
func (r Remote) Status(ctx context.Context) (Status, error) {
	dir, err := r.Path()
	if err != nil {
		return Status{}, err
	}
	return controlClient{dir}.status(ctx)
}

// Operate does to a region what `meridian region` does: kill, hang, resume,
// silence, heal, stop, start. say, which may be nil, hears what the platform does meanwhile. The
// error is an *Error if the platform refuses.
func (r Remote) Operate(ctx context.Context, op, region string, args url.Values, say func(string)) error {
	dir, err := r.Path()
	if err != nil {
		return err
	}
	if say == nil {
		say = func(string) {}
	}
	return controlClient{dir}.operate(ctx, operation(op), region, args, say)
}
