package geo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"time"
)

// maxDatabaseBytes bounds what is read into memory; the largest commercial city
// database is well below it.
const maxDatabaseBytes = 1 << 30

// file is what a database was read from.
type file struct {
	sum   [sha256.Size]byte
	stamp fileStamp
}

func fileOf(b []byte) file { return file{sum: sha256.Sum256(b)} }

// database is one of either kind. A nil one is none.
type database interface {
	// read is what it was read from, nil for none.
	read() *file
}

// same reports whether both were read from the same bytes.
func (f *file) same(o *file) bool { return f != nil && o != nil && f.sum == o.sum }

// openFile reads the database at path; what names its kind in errors.
func openFile[D database](what, path string, parse func([]byte) (D, error)) (D, error) {
	var none D
	f, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, maxDatabaseBytes+1))
	if err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	if n > maxDatabaseBytes {
		return none, fmt.Errorf("%s %s: larger than %d bytes", what, path, maxDatabaseBytes)
	}
	db, err := parse(b.Bytes())
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", what, path, err)
	}
	db.read().stamp = stampOf(fi)
	return db, nil
}

// watch opens the file at path again whenever it has changed, until ctx ends.
// Polling sees renames, symlink swaps and network mounts alike.
func watch[D database](ctx context.Context, path string, every time.Duration, current D,
	open func(path string) (D, error), changed func(D), failed func(error)) {
	var seen fileStamp
	if f := current.read(); f != nil {
		seen = f.stamp // not the file's of now: it may have been replaced since
	}
	t := time.NewTicker(every)
	defer t.Stop()
	var lastErr string
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, err := stamp(path)
		if err == nil && now == seen {
			continue
		}
		var db D
		if err == nil {
			db, err = open(path)
		}
		// A file still being written changes again, so it is looked at again.
		changedFile := now != seen
		seen = now
		if err != nil {
			if msg := err.Error(); changedFile || msg != lastErr {
				lastErr = msg
				failed(err)
			}
			continue
		}
		lastErr = ""
		if db.read().same(current.read()) {
			continue
		}
		current = db
		changed(db)
	}
}

type fileStamp struct {
	size  int64
	mtime time.Time
	inode uint64
}

func stamp(path string) (fileStamp, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, fmt.Errorf("database: %w", err)
	}
	return stampOf(fi), nil
}

func stampOf(fi os.FileInfo) fileStamp {
	return fileStamp{size: fi.Size(), mtime: fi.ModTime(), inode: inode(fi)}
}
