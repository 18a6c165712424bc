package objects

import "errors"

var (
	// ErrNotFound: every region that answered says there is no such object, and
	// at least one answered.
	ErrNotFound = errors.New("object not found")
	// ErrConflict: the key already holds other bytes. Keys are never reused, so
	// this is a defect and must raise an alarm.
	ErrConflict = errors.New("object exists with other content")
	// ErrTooFewRegions: fewer regions acknowledged a write than the placement
	// asks for. Retry later; nothing has been promised.
	ErrTooFewRegions = errors.New("too few regions acknowledged the write")
	// ErrDamaged: an object's bytes aren't those its hash names. A defect of the
	// disk or store: an alarm.
	ErrDamaged = errors.New("object is damaged")
	// ErrNoHash: an object was stored without a hash, so not by this package.
	ErrNoHash = errors.New("object has no sha256")
	// ErrUnavailable: no region answered. Retry later.
	ErrUnavailable = errors.New("no region's object store answered")
)
