package cache

import "errors"

var (
	// ErrNotFound: the origin has no such object. Origins return it, or wrap it.
	ErrNotFound = errors.New("no such object")
	// ErrBusy: too many objects are being fetched at once; retry in a moment.
	ErrBusy = errors.New("too many objects are being fetched")
	// ErrCorrupt: the origin's bytes aren't what was written there.
	ErrCorrupt = errors.New("object's bytes are not the ones that were stored")
	// ErrClosed: the cache is shutting down.
	ErrClosed = errors.New("cache is closed")
)
