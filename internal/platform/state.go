package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/tools"
)

const (
	// markFile shows that a directory is ours to wipe; it holds the layout's
	// version and the regions it was made for.
	markFile      = "meridian-state"
	layoutVersion = "1"
	lockFile      = "lock"
	// minFree is what a start needs: write-ahead logs and JetStream take space at once.
	minFree = 1 << 30
)

// state is the directory that holds everything, held by this process.
type state struct {
	dir  string
	lock *os.File
	// cred runs PostgreSQL, which refuses to be root; nil when we aren't.
	cred *syscall.Credential
}

// openState takes the directory for this run; it is made, or wiped, as asked.
// afterLock runs while the lock is held and before anything is wiped: it ends
// what an earlier run left running.
func openState(dir string, fresh bool, l layout, afterLock func() error) (*state, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w; choose another with --state", err)
	}
	s := &state{dir: dir}
	ours, err := s.known()
	if err != nil {
		return nil, err
	}
	if !ours {
		if err := s.requireEmpty(); err != nil {
			return nil, err
		}
	}
	if err := s.take(); err != nil {
		return nil, err
	}
	if err := s.prepare(fresh, ours, l, afterLock); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

func (s *state) prepare(fresh, ours bool, l layout, afterLock func() error) error {
	if err := afterLock(); err != nil {
		return err
	}
	if fresh {
		if err := s.wipe(); err != nil {
			return err
		}
		ours = false
	}
	if ours {
		if err := s.checkMark(l); err != nil {
			return err
		}
	} else if err := s.writeMark(l); err != nil {
		return err
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	for _, d := range []string{"logs", "secrets", "geo"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	cred, err := tools.PostgresCredential()
	if err != nil {
		return err
	}
	s.cred = cred
	return nil
}

func (s *state) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *state) known() (bool, error) {
	_, err := os.Stat(s.path(markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state directory: %w", err)
	}
	return true, nil
}

// requireEmpty refuses to put a platform's state among someone's files.
func (s *state) requireEmpty() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			return fmt.Errorf("%s holds other files (%s) and no platform's state; choose an empty or new directory with --state", s.dir, e.Name())
		}
	}
	return nil
}

func (s *state) take() error {
	f, err := os.OpenFile(s.path(lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		b, _ := os.ReadFile(f.Name())
		f.Close()
		return fmt.Errorf("a platform runs already on %s (process %s): end it with `kill %[2]s`, or choose another --state",
			s.dir, strings.TrimSpace(string(b)))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("lock %s: %w", f.Name(), diskFull(err, s.dir))
	}
	s.lock = f
	return nil
}

// release gives the directory back. The file stays: removing it would let two
// processes hold locks on two files of one name.
func (s *state) release() { s.lock.Close() }

func (s *state) wipe() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	for _, e := range entries {
		// The mark goes last, so that a wipe cut short can be repeated.
		if e.Name() == lockFile || e.Name() == markFile {
			continue
		}
		if err := os.RemoveAll(s.path(e.Name())); err != nil {
			return fmt.Errorf("wipe: %w", err)
		}
	}
	if err := os.Remove(s.path(markFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wipe: %w", err)
	}
	return nil
}

// layout is what a state directory was made for: databases remember their
// members by address.
type layout struct {
	regions  []string
	isolated bool
}

func (o Options) layout() layout { return layout{o.Table.Names(), o.Isolated} }

const isolatedMark = "isolated"

func (s *state) writeMark(l layout) error {
	text := layoutVersion + " " + strings.Join(l.regions, ",")
	if l.isolated {
		text += " " + isolatedMark
	}
	if err := os.WriteFile(s.path(markFile), []byte(text+"\n"), 0o644); err != nil {
		return fmt.Errorf("state directory: %w", diskFull(err, s.dir))
	}
	return nil
}

func (s *state) checkMark(l layout) error {
	b, err := os.ReadFile(s.path(markFile))
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	f := strings.Fields(string(b))
	if len(f) > 0 && f[0] != layoutVersion {
		return fmt.Errorf("the state in %s has layout %s, this program needs %s; use the program that made it, another --state, or --fresh (this deletes all videos in it)",
			s.dir, f[0], layoutVersion)
	}
	isolated := len(f) == 3 && f[2] == isolatedMark
	if len(f) != 2 && !isolated {
		return fmt.Errorf("%s is damaged; start anew with --fresh (this deletes all videos in it) or another --state", s.path(markFile))
	}
	had := strings.Split(f[1], ",")
	slices.Sort(had)
	want := slices.Sorted(slices.Values(l.regions))
	if !slices.Equal(had, want) {
		return fmt.Errorf("the state in %s was made for regions %s; use --regions %[2]s, another --state, or --fresh (this deletes all videos in it)",
			s.dir, strings.Join(had, ","))
	}
	if isolated != l.isolated {
		was, use := "loopback addresses", "start without --isolated"
		if isolated {
			was, use = "isolated regions", "start with --isolated"
		}
		return fmt.Errorf("the state in %s was made for %s; %s, or use another --state, or --fresh (this deletes all videos in it)", s.dir, was, use)
	}
	return nil
}

func (s *state) checkSpace() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFree {
		return fmt.Errorf("the disk of %s has %s free and the platform needs at least %s; free some, or choose another disk with --state",
			s.dir, humanize.IBytes(free), humanize.IBytes(minFree))
	}
	return nil
}

// diskFull says what to do about ENOSPC.
func diskFull(err error, dir string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: free some space, or choose another disk with --state (now %s)", err, dir)
	}
	return err
}

// postgresDir makes a directory that PostgreSQL's user owns and can reach.
func (s *state) postgresDir(elem ...string) (string, error) {
	dir := s.path(elem...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if s.cred == nil {
		return dir, nil
	}
	if err := os.Chown(dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/sh", "-c", `cd "$1" && test -w .`, "sh", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("the user postgres, as whom PostgreSQL runs, can't reach %s: a directory above it is closed to others; choose another --state, such as /var/lib/meridian", dir)
	}
	return dir, nil
}
