package platform

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// leastDisk holds PostgreSQL's write-ahead logs, JetStream's files and a film.
	leastDisk = 1 << 30
	// diskDir, in the state directory, holds the regions' disks; ballastFile, on
	// each of them, is what fills it.
	diskDir     = "disks"
	ballastFile = ".ballast"
	// fineStep is what a disk is filled by at last.
	fineStep = 4 << 10
)

// disks are file systems of their own, one for each region's part of the state
// directory. Only what a region holds can fill them.
type disks struct {
	state   *state
	regions []string // those mounted
}

// haveDisks reports whether the state lies on disks: they are used whatever is
// asked for, else it would seem empty.
func haveDisks(st *state) bool {
	files, err := os.ReadDir(st.path(diskDir))
	return err == nil && len(files) > 0
}

// mountDisks makes what disks are missing and mounts all.
func mountDisks(st *state, regions []string, size uint64) (_ *disks, err error) {
	d := &disks{state: st}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	// Nothing is made unless all can be.
	for _, r := range regions {
		if err := checkDisk(st, r, size); err != nil {
			return nil, fmt.Errorf("disk of %s: %w", r, err)
		}
	}
	for _, dir := range append([]string{diskDir}, regions...) {
		if err := os.MkdirAll(st.path(dir), 0o755); err != nil {
			return nil, diskFull(err, st.dir)
		}
	}
	for _, r := range regions {
		image := st.path(diskDir, r)
		if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
			if err := makeDisk(st, r, size); err != nil {
				return nil, fmt.Errorf("disk of %s: %w", r, errors.Join(err, os.Remove(image)))
			}
		} else if err != nil {
			return nil, fmt.Errorf("disk of %s: %w", r, err)
		}
		if err := run("mount", "-o", "loop", image, st.path(r)); err != nil {
			return nil, fmt.Errorf("disk of %s: %w", r, err)
		}
		d.regions = append(d.regions, r)
		// A run that was killed may have left it full.
		if err := d.free(r); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// checkDisk says why a region has no disk and can't get one.
func checkDisk(st *state, region string, size uint64) error {
	image := st.path(diskDir, region)
	if _, err := os.Stat(image); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(st.path(region))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s holds files, which a disk would hide: start without --region-disk, or wipe the state with --fresh", st.path(region))
	case size == 0:
		return fmt.Errorf("%s is gone: bring it back, or start with --region-disk and the region has an empty one", image)
	}
	return nil
}

// makeDisk makes a file that takes room as it is written to, with a file system
// that keeps none for root.
func makeDisk(st *state, region string, size uint64) error {
	f, err := os.OpenFile(st.path(diskDir, region), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return diskFull(err, st.dir)
	}
	if err := errors.Join(f.Truncate(int64(size)), f.Close()); err != nil {
		return err
	}
	return run("mkfs.ext4", "-q", "-m", "0", f.Name())
}

// run runs a program of the system and says what it said if it fails.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// fill takes all room there is on a region's disk.
func (d *disks) fill(region string) error {
	f, err := os.OpenFile(d.state.path(region, ballastFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk of %s: %w", region, err)
	}
	defer f.Close()
	var size int64
	for step := int64(leastDisk); step >= fineStep; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill the disk of %s: %w", region, err)
		}
	}
	return nil
}

// free removes what fill put there.
func (d *disks) free(region string) error {
	err := os.Remove(d.state.path(region, ballastFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free the disk of %s: %w", region, err)
	}
	return nil
}

// close unmounts all. Nothing of the regions may run any more.
func (d *disks) close() error {
	var errs []error
	for _, r := range d.regions {
		if err := unix.Unmount(d.state.path(r), unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount the disk of %s: %w", r, err))
		}
	}
	return errors.Join(errs...)
}

// unmountLeft unmounts disks that a run which was killed has left.
func unmountLeft(stateDir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not a system that has them
	}
	if err != nil {
		return err
	}
	defer f.Close()
	left, err := mountedBelow(f, stateDir)
	errs := []error{err}
	for _, dir := range slices.Backward(left) {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s, which an earlier run left: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// mountEscapes are how the kernel writes what would break up its lines (proc(5)).
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountedBelow lists what is mounted below a directory, in the order of mounting, from
// the text of /proc/PID/mountinfo.
func mountedBelow(mountinfo io.Reader, dir string) ([]string, error) {
	var out []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if at := mountEscapes.Replace(fields[4]); strings.HasPrefix(at, dir+"/") {
			out = append(out, at)
		}
	}
	return out, lines.Err()
}
