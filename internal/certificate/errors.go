package certificate

import "errors"

var (
	// ErrNone: there is no certificate for the name a client asks for, or none yet.
	ErrNone = errors.New("no certificate")
	// ErrState: an entry opens and isn't a state: a newer version wrote it.
	ErrState = errors.New("certificates are in a form this version doesn't know")
)
