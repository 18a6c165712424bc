package fastpath

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

const (
	storedSize = 3<<20 + 7
	storedAt   = 5000 // where the body begins in the file
)

// storedSite answers /n with a body on disk from n on.
type storedSite struct {
	file                   *os.File
	held, loads, responded atomic.Int64
	failed                 atomic.Pointer[error]
	loading                chan struct{} // nil, or Load waits for it
	says                   func() error  // in place of Load; may be nil
}

func (s *storedSite) File() (int, int64) { return int(s.file.Fd()), storedAt }
func (s *storedSite) Release()           { s.held.Add(-1) }
func (s *storedSite) Failed(err error)   { s.failed.Store(&err) }
func (s *storedSite) Load(offset, length int64) error {
	s.loads.Add(1)
	if s.loading != nil {
		<-s.loading
	}
	if s.says != nil {
		return s.says()
	}
	_, err := s.file.ReadAt(make([]byte, length), storedAt+offset)
	return err
}

func (s *storedSite) Respond(r *Request) (Answer, bool) {
	n, err := strconv.ParseInt(string(r.Target[1:]), 10, 64)
	if err != nil || !r.Files {
		return Answer{}, false
	}
	s.held.Add(1)
	head := NewHead(http.StatusOK, []HeadField{{Name: "Content-Length", Value: strconv.FormatInt(storedSize-n, 10)}})
	return Answer{Head: head, Stored: s, Part: deliver.Span{Start: n, Length: storedSize - n}}, true
}
func (s *storedSite) Responded(*Answer, int64, time.Duration, error) { s.responded.Add(1) }

func startStored(t *testing.T) (*storedSite, net.Conn) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	_, err = f.WriteAt(bodyOf(storedSize), storedAt)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("of another"), 1000), storedAt+storedSize)
	require.NoError(t, err)
	s := &storedSite{file: f}
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := New(nl, patient, s)
	require.NoError(t, err)
	c := dial(t, l.Addr().String())
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.NoError(t, c.Close())
		l.Drain(t.Context())
		require.Zero(t, s.held.Load(), "all are released")
	})
	return s, c
}

// forget has the kernel let go of the body from n on, once no socket has it any more.
// A file system in memory keeps it.
func (s *storedSite) forget(t *testing.T, n int64) {
	t.Helper()
	fd := int(s.file.Fd())
	var fs unix.Statfs_t
	require.NoError(t, unix.Fstatfs(fd, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("the file system is in memory")
	}
	require.NoError(t, s.file.Sync())
	require.Eventually(t, func() bool {
		return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) == nil && !resident(fd, storedAt+n, storedSize-n)
	}, 10*time.Second, time.Millisecond)
}

func askStored(t *testing.T, c net.Conn, br *bufio.Reader, n int) ([]byte, error) {
	t.Helper()
	_, err := io.WriteString(c, request(n, ""))
	require.NoError(t, err)
	res, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	return io.ReadAll(res.Body)
}

// TestSentFromDisk: whole and from any byte on, from what the kernel has and, past the
// loop, from what it hasn't.
func TestSentFromDisk(t *testing.T) {
	s, c := startStored(t)
	br := bufio.NewReader(c)
	for _, n := range []int{0, 1, 4096, 100_001, storedSize - 1} {
		for _, cold := range []bool{false, true} {
			before := s.loads.Load()
			if cold {
				s.forget(t, int64(n))
			}
			b, err := askStored(t, c, br, n)
			require.NoError(t, err)
			require.True(t, bytes.Equal(bodyOf(storedSize)[n:], b), n)
			require.Equal(t, cold, s.loads.Load() > before)
		}
	}
	require.Nil(t, s.failed.Load())
}

// TestOthersGoOnWhileTheDiskIsWaitedFor: and clients that leave meanwhile.
func TestOthersGoOnWhileTheDiskIsWaitedFor(t *testing.T) {
	s, c := startStored(t)
	br := bufio.NewReader(c)
	s.forget(t, 0)
	s.loading = make(chan struct{})
	_, err := io.WriteString(c, request(0, ""))
	require.NoError(t, err)
	gone := dial(t, c.RemoteAddr().String())
	_, err = io.WriteString(gone, request(0, ""))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.loads.Load() == 2 }, 10*time.Second, time.Millisecond)
	require.NoError(t, gone.(*net.TCPConn).SetLinger(0))
	require.NoError(t, gone.Close())
	_, err = s.file.ReadAt(make([]byte, 8192), storedAt+storedSize-8192)
	require.NoError(t, err)
	other := dial(t, c.RemoteAddr().String())
	b, err := askStored(t, other, bufio.NewReader(other), storedSize-4000)
	require.NoError(t, err)
	require.Equal(t, bodyOf(storedSize)[storedSize-4000:], b)
	close(s.loading)
	res, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	b, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bodyOf(storedSize), b))
	require.Eventually(t, func() bool { return s.held.Load() == 0 && s.responded.Load() == 3 }, 10*time.Second, time.Millisecond)
}

// TestDiskThatFails: the connection is cut, after right bytes only, whether the disk
// says so or the kernel finds it.
func TestDiskThatFails(t *testing.T) {
	disk := errors.New("disk")
	for _, says := range []error{disk, nil} {
		s, c := startStored(t)
		require.NoError(t, s.file.Truncate(storedAt+2<<20))
		s.says = func() error { return says }
		b, err := askStored(t, c, bufio.NewReader(c), 0)
		require.Error(t, err)
		require.Less(t, len(b), storedSize)
		require.True(t, bytes.Equal(bodyOf(len(b)), b))
		require.Eventually(t, func() bool { return s.held.Load() == 0 }, 10*time.Second, time.Millisecond)
		if says == nil {
			require.ErrorIs(t, *s.failed.Load(), io.ErrUnexpectedEOF)
		}
	}
}
