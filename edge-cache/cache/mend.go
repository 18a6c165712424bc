package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// retryMost bounds the pause between two looks at a failed disk, in first pauses.
	retryMost = 60
	// steady is after how many first pauses without a failure they begin anew.
	steady = 300
	// probeSize is what a disk must take and give back to be used again.
	probeSize = 64 << 10
)

// DiskState is how the disk tier does. It is zero without one.
type DiskState struct {
	// Err is why it isn't used; nil while it is.
	Err error
	// Since it has failed, Tries looks at it found that it still does, and Next is
	// when it is looked at again.
	Since, Next time.Time
	Tries       int
	// Failures and Recoveries there were since the cache was opened.
	Failures, Recoveries int64
}

// Disk tells how the disk tier does.
func (c *Cache) Disk() DiskState {
	if c.disk == nil {
		return DiskState{}
	}
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	return c.disk.state
}

// fail ends the use of the disk until it is found to work. Only the writer calls it.
func (d *diskLog) fail(err error) {
	now := time.Now()
	d.mu.Lock()
	first := d.state.Err == nil
	if first {
		if now.Sub(d.works) >= steady*d.retryFirst {
			d.pause = 0
		}
		d.state.Since, d.state.Tries = now, 0
		d.state.Failures++
		err = errors.Join(err, d.abandon())
	} else {
		d.state.Tries++
	}
	d.pause = min(max(2*d.pause, d.retryFirst), retryMost*d.retryFirst)
	d.state.Err, d.state.Next = err, now.Add(d.pause)
	d.mu.Unlock()
	d.retry.Reset(d.pause)
	if first {
		d.log.Error("cache disk failed: going on in memory alone, until it works again", "dir", d.dir, "err", err)
	}
}

// abandon closes all files, so that the disk can be taken away. Readers keep theirs
// until they end. The caller holds mu.
func (d *diskLog) abandon() error {
	errs := []error{d.lock.Close()}
	for _, seg := range d.segments {
		errs = append(errs, seg.letGo())
	}
	d.lock, d.index, d.segments, d.active, d.bytes = nil, map[string]*place{}, nil, nil, 0
	return errors.Join(errs...)
}

// owe notes what is to be removed from a failed disk before it is used again.
func (d *diskLog) owe(match func(key string) bool) {
	if len(d.owed) >= maxDrops {
		clear(d.owed)
		d.owed, match = d.owed[:0], func(string) bool { return true }
	}
	d.owed = append(d.owed, match)
}

// mend looks whether a failed disk works, and uses it again if so.
func (d *diskLog) mend() {
	now, err := d.reload()
	// A log that has no room on its disk becomes smaller.
	for full(err) && d.removeOldest() {
		now, err = d.reload()
	}
	if err != nil {
		d.fail(err)
		return
	}
	d.mu.Lock()
	d.lock, d.index, d.segments, d.nextID, d.bytes = now.lock, now.index, now.segments, now.nextID, now.bytes
	failed, objects := d.state.Since, len(now.index)
	d.state = DiskState{Failures: d.state.Failures, Recoveries: d.state.Recoveries + 1}
	d.mu.Unlock()
	d.works, d.owed = time.Now(), nil
	d.log.Info("cache disk works again", "dir", d.dir, "after", time.Since(failed).Round(time.Millisecond), "objects", objects)
}

// reload reads the log anew, removes from it what it should hold no more and finds
// whether it can be written to. It makes no directory: where there is none its disk
// isn't mounted.
func (d *diskLog) reload() (_ *diskLog, err error) {
	lock, err := lockDir(d.dir)
	if err != nil {
		return nil, err
	}
	now := &diskLog{dir: d.dir, capacity: d.capacity, segmentMax: d.segmentMax, maxObject: d.maxObject, index: map[string]*place{}, lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, now.closeFiles(), lock.Close())
		}
	}()
	if err := now.load(); err != nil {
		return nil, err
	}
	for _, match := range d.owed {
		if err := now.erase(match); err != nil {
			return nil, err
		}
	}
	return now, now.probe()
}

// probe writes a file and reads it back.
func (d *diskLog) probe() error {
	name := filepath.Join(d.dir, "probe.tmp")
	want := bytes.Repeat([]byte("MERIDIAN"), probeSize/8)
	err := writeSynced(name, want)
	if err == nil {
		var got []byte
		if got, err = os.ReadFile(name); err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s: not what was written", name)
		}
	}
	if rerr := os.Remove(name); !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// full reports whether the file system, or our share of it, is full.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// removeOldest removes the oldest segment in the directory; false when there is none.
func (d *diskLog) removeOldest() bool {
	ids, _, err := d.files()
	if err != nil || len(ids) == 0 {
		return false
	}
	return d.removeFiles(ids[0]) == nil
}

// store appends an object. Where the disk is full, which others fill too, the
// oldest segments make room.
func (d *diskLog) store(o *Object) error {
	for {
		err := d.append(o.key, o.info, o.body, true)
		if !full(err) || len(d.segments) == 0 || d.segments[0] == d.active {
			return err
		}
		if derr := d.drop(d.segments[0]); derr != nil {
			return errors.Join(err, derr)
		}
	}
}
