package confine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What this binary is when it isn't the test.
const roleKey = "MERIDIAN_TEST_CONFINE"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleKey), "=")
	switch role {
	case "worker":
		runs(worker(arg))
	case "child":
		runs(child(arg))
	case "":
		goleak.VerifyTestMain(m)
	}
}

func runs(out any, err error) {
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// scene is what the test prepared for a worker and its child.
type scene struct {
	// Program is this binary, where everybody can execute it.
	Program string
	// Secret is a file of the worker, Dir where the child may write, Outside where it may not.
	Secret, Dir, Outside string
	// Elsewhere is an address that isn't the worker's server.
	Elsewhere string
	// Port is the worker's server, Worker its process.
	Port, Worker int
	// Contained: the worker may not make or enter namespaces, not even parts of one.
	Contained bool
}

// report is what a child found, by what it tried: "" where it could.
type report struct {
	Lacks  map[Layer]string
	Tried  map[string]string
	UID    int
	Status string
}

// worker starts a child in its confinement.
func worker(arg string) (report, error) {
	var s scene
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return report{}, err
	}
	if s.Contained {
		if err := contain(); err != nil {
			return report{}, err
		}
	}
	c, err := New(context.Background(), Options{User: "nobody", Programs: []string{s.Program}, Try: []string{s.Program, "-test.run=^$"}})
	if err != nil {
		return report{}, err
	}
	defer c.Close()
	defer c.Listener().Close()
	s.Port, s.Worker = c.Listener().Addr().(*net.TCPAddr).Port, os.Getpid()
	b, err := json.Marshal(s)
	if err != nil {
		return report{}, err
	}
	cmd := exec.Command(s.Program)
	cmd.Env = []string{roleKey + "=child=" + string(b)}
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	release, err := c.Start(cmd, s.Dir)
	if err != nil {
		return report{}, err
	}
	err = cmd.Wait()
	release()
	if err != nil {
		return report{}, err
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return report{}, err
	}
	r.Lacks = map[Layer]string{}
	for _, l := range c.Lacks() {
		r.Lacks[l.Layer] = l.Why.Error()
	}
	return r, nil
}

// contain refuses this process what the profiles of container engines refuse, of what this
// package might want.
func contain() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: dataNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_UNSHARE, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_SETNS, SkipTrue: 1},
		bpf.RetConstant{Val: allow},
		bpf.RetConstant{Val: refuse},
	})
	if err != nil {
		return err
	}
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

// child tries everything.
func child(arg string) (report, error) {
	var s scene
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return report{}, err
	}
	r := report{Tried: map[string]string{}, UID: os.Getuid()}
	try := func(what string, err error) {
		r.Tried[what] = ""
		if err != nil {
			r.Tried[what] = err.Error()
		}
	}
	dial := func(network, address string) error {
		c, err := net.DialTimeout(network, address, 2*time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	read := func(path string) error {
		f, err := os.Open(path)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	socket := func(domain, typ, protocol int) error {
		fd, err := unix.Socket(domain, typ, protocol)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
	_, port, err := net.SplitHostPort(s.Elsewhere)
	if err != nil {
		return r, err
	}
	elsewhere, err := strconv.Atoi(port)
	if err != nil {
		return r, err
	}
	try("connect to the server", dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port)))
	try("write into its directory", os.WriteFile("here", []byte("x"), 0o600))
	try("execute", exec.Command("/bin/true").Run())

	try("connect elsewhere", dial("tcp4", s.Elsewhere))
	try("connect by IPv6", dial("tcp6", "[::1]:"+port))
	try("connect by sending", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: elsewhere, Addr: [4]byte{127, 0, 0, 1}})
	}())
	try("listen", func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err == nil {
			err = l.Close()
		}
		return err
	}())
	try("UDP", socket(unix.AF_INET, unix.SOCK_DGRAM, 0))
	try("raw", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))
	try("MPTCP", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP))
	try("Unix sockets", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	try("netlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0))
	try("read passwords", read("/etc/shadow"))
	try("read what all may", read("/etc/passwd"))
	try("read the worker's secret", read(s.Secret))
	try("read the worker's environment", read(fmt.Sprintf("/proc/%d/environ", s.Worker)))
	try("read the worker's memory", read(fmt.Sprintf("/proc/%d/mem", s.Worker)))
	try("write elsewhere", os.WriteFile(filepath.Join(s.Outside, "there"), []byte("x"), 0o600))
	try("write beside its directory", os.WriteFile("../beside", []byte("x"), 0o600))
	try("signal the worker", syscall.Kill(s.Worker, syscall.SIGURG))
	try("trace the worker", unix.PtraceAttach(s.Worker))
	try("make namespaces", unix.Unshare(unix.CLONE_NEWUSER|unix.CLONE_NEWNET))
	namespaced := exec.Command("/bin/true")
	namespaced.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	try("start in a namespace", namespaced.Run())
	try("become another user", unix.Setuid(1))
	b, err := os.ReadFile("/proc/thread-self/status")
	if err == nil {
		return r, errors.New("/proc is open")
	}
	// What /proc tells, asked of the kernel.
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return r, err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return r, err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return r, err
	}
	none := caps[0].Effective|caps[1].Effective|caps[0].Permitted|caps[1].Permitted == 0
	r.Status = fmt.Sprintf("no new privileges %d, no capabilities %v, groups %v, %s", nnp, none, groups, b)
	return r, nil
}

// allowed is all of what a child tries that it may.
var allowed = map[string]bool{"connect to the server": true, "write into its directory": true, "execute": true}

// A child reaches its worker's server and its own directory, and nothing else; whether the
// worker is root or has no rights at all.
func TestChildren(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	noRights := []string{"setpriv", "--inh-caps=-all", "--bounding-set=-all"}
	for name, prefix := range map[string][]string{"root": nil, "no rights": noRights, "contained": noRights, "contained root": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var connections atomic.Int32
			accepted := make(chan struct{})
			go func() {
				defer close(accepted)
				for {
					c, err := elsewhere.Accept()
					if err != nil {
						return
					}
					connections.Add(1)
					_ = c.Close()
				}
			}()
			dir := t.TempDir()
			s := scene{Program: forAll(t), Secret: filepath.Join(dir, "secret"), Dir: filepath.Join(dir, "own"), Outside: filepath.Join(dir, "outside"), Elsewhere: elsewhere.Addr().String(), Contained: strings.HasPrefix(name, "contained")}
			require.NoError(t, os.Mkdir(s.Dir, 0o700))
			require.NoError(t, os.Mkdir(s.Outside, 0o777))
			require.NoError(t, os.Chmod(s.Outside, 0o777))
			require.NoError(t, os.WriteFile(s.Secret, []byte("x"), 0o600))
			b, err := json.Marshal(s)
			require.NoError(t, err)
			args := append(prefix, s.Program)
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Env = append(os.Environ(), roleKey+"=worker="+string(b))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err, "%s", stderr.String())
			var r report
			require.NoError(t, json.Unmarshal(out, &r), "%s", out)
			for what, failure := range r.Tried {
				t.Logf("%s: %s", what, failure)
				require.Equal(t, allowed[what], failure == "", "%s: %s", what, failure)
			}
			require.Greater(t, len(r.Tried), 20)
			require.Equal(t, "no new privileges 1, no capabilities true, groups [], ", r.Status)
			switch name {
			case "root":
				require.Empty(t, r.Lacks)
				require.Equal(t, 65534, r.UID)
			case "contained root":
				require.Len(t, r.Lacks, 1)
				require.Contains(t, r.Lacks[User], "unshare")
			default:
				require.Len(t, r.Lacks, 1)
				require.Contains(t, r.Lacks[User], "CAP_SETUID")
			}
			require.NoError(t, elsewhere.Close())
			<-accepted
			require.Zero(t, connections.Load())
		})
	}
}

// forAll is this binary in a place where everybody may execute it.
func forAll(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	self, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer self.Close()
	path := filepath.Join(dir, "child")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(f, self)
	require.NoError(t, errors.Join(err, f.Close()))
	return path
}

// ffmpeg with every protocol and demuxer allowed, as if its lists were got around, reads and
// writes no more than its confinement lets it.
func TestConfinedFFmpeg(t *testing.T) {
	c, err := New(t.Context(), Options{User: "nobody", Programs: []string{"ffmpeg", "ffprobe"}, Try: []string{"ffprobe", "-version"}})
	require.NoError(t, err)
	for _, l := range c.Lacks() {
		t.Logf("lacks %s: %v", l.Layer, l.Why)
	}
	film, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=16x16:d=0.2", "-c:v", "mpeg2video", "-f", "mpegts", "-").Output()
	require.NoError(t, err)
	var reached atomic.Int32
	serve := func(l net.Listener, h http.HandlerFunc) {
		s := &http.Server{Handler: h}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { require.NoError(t, s.Close()); <-done })
	}
	send := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(film) }
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	serve(c.Listener(), send)
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serve(counting{elsewhere, &reached}, send)

	dir, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(outside, 0o777))
	own, other := "http://"+c.Listener().Addr().String(), "http://"+elsewhere.Addr().String()
	secret := filepath.Join(outside, "secret.ts")
	write := func(path, text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	write(secret, string(film))
	write(filepath.Join(dir, "film.ts"), string(film))
	playlist := func(url string) string {
		return "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n" + url + "\n#EXT-X-ENDLIST\n"
	}
	write(filepath.Join(dir, "own.m3u8"), playlist(own+"/film.ts"))
	write(filepath.Join(dir, "file.m3u8"), playlist("file://"+secret))
	write(filepath.Join(dir, "other.m3u8"), playlist(other+"/film.ts"))
	write(filepath.Join(dir, "own.ffconcat"), "ffconcat version 1.0\nfile "+own+"/film.ts\n")
	write(filepath.Join(dir, "file.ffconcat"), "ffconcat version 1.0\nfile "+secret+"\n")
	write(filepath.Join(dir, "other.ffconcat"), "ffconcat version 1.0\nfile "+other+"/film.ts\n")
	subfile := func(path string) string { return fmt.Sprintf("subfile,,start,0,end,%d,,:%s", len(film), path) }
	for _, r := range []struct {
		input, output string
		works         bool
	}{
		{own, "copy.ts", true},
		{"own.m3u8", "copy.ts", true},
		{"own.ffconcat", "copy.ts", true},
		{"film.ts", "copy.ts", true},
		{subfile("film.ts"), "copy.ts", true},
		{other, "copy.ts", false},
		{strings.Replace(other, "http", "tcp", 1), "copy.ts", false},
		{strings.Replace(other, "http", "udp", 1) + "?timeout=1000000", "copy.ts", false},
		{"other.m3u8", "copy.ts", false},
		{"other.ffconcat", "copy.ts", false},
		{secret, "copy.ts", false},
		{subfile(secret), "copy.ts", false},
		{"concat:film.ts|" + secret, "copy.ts", false},
		{"file.m3u8", "copy.ts", false},
		{"file.ffconcat", "copy.ts", false},
		{"film.ts", filepath.Join(outside, "copy.ts"), false},
		{"film.ts", "-f mpegts " + strings.Replace(other, "http", "tcp", 1), false},
		{"film.ts", "-f mpegts " + strings.Replace(other, "http", "udp", 1), false},
	} {
		args := append([]string{"-v", "error", "-nostdin", "-y", "-xerror", "-protocol_whitelist", "ALL,http,tcp,udp,file,subfile,concat,crypto", "-safe", "0"}, "-i", r.input, "-c", "copy")
		if !strings.HasSuffix(r.input, "ffconcat") {
			args = append(args[:7:7], args[9:]...)
		}
		cmd := exec.CommandContext(t.Context(), "ffmpeg", append(args, strings.Fields(r.output)...)...)
		out := &bytes.Buffer{}
		cmd.Stderr = out
		release, err := c.Start(cmd, dir)
		require.NoError(t, err)
		err = cmd.Wait()
		release()
		require.Equal(t, r.works, err == nil, "%s to %s: %s", r.input, r.output, out)
		if !r.works {
			// A playlist says less of its parts.
			require.Regexp(t, "Permission denied|Operation not permitted|m3u8: Invalid data", out.String(), r.input)
		}
	}
	require.Zero(t, reached.Load())
	_, err = os.Stat(filepath.Join(outside, "copy.ts"))
	require.ErrorIs(t, err, os.ErrNotExist)
	copied, err := os.ReadFile(filepath.Join(dir, "copy.ts"))
	require.NoError(t, err)
	require.NotEmpty(t, copied)
}

// counting counts connections.
type counting struct {
	net.Listener
	n *atomic.Int32
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func BenchmarkStart(b *testing.B) {
	c, err := New(b.Context(), Options{User: "nobody", Programs: []string{"true"}, Try: []string{"true"}})
	require.NoError(b, err)
	defer func() { require.NoError(b, errors.Join(c.Listener().Close(), c.Close())) }()
	dir := b.TempDir()
	for name, start := range map[string]func(*exec.Cmd) (func(), error){
		"free":     func(cmd *exec.Cmd) (func(), error) { return func() {}, cmd.Start() },
		"confined": func(cmd *exec.Cmd) (func(), error) { return c.Start(cmd, "") },
		"writing":  func(cmd *exec.Cmd) (func(), error) { return c.Start(cmd, dir) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), "true")
				release, err := start(cmd)
				require.NoError(b, err)
				require.NoError(b, cmd.Wait())
				release()
			}
		})
	}
}

// What can't be is said with what to change.
func TestLacks(t *testing.T) {
	_, err := filter("386")
	require.ErrorContains(t, err, "386")
	_, err = New(t.Context(), Options{User: "nobody", Try: []string{"no-such-program"}})
	require.ErrorContains(t, err, "no-such-program")
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	_, err = credential("no-such-user")
	require.ErrorContains(t, err, `"no-such-user"`)
	_, err = credential("root")
	require.ErrorContains(t, err, "is root")
	as, err := credential("65534")
	require.NoError(t, err)
	require.EqualValues(t, 65534, as.Uid)

	// A filter that the kernel doesn't take is left out.
	plain := &Confinement{filter: []unix.SockFilter{{Code: 0xffff}}}
	require.NoError(t, plain.try(t.Context(), []string{"true"}))
	require.Len(t, plain.Lacks(), 1)
	require.Equal(t, Calls, plain.Lacks()[0].Layer)

	// Programs where only root can go are run by root, without its rights.
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	path := filepath.Join(dir, "true")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
	c, err := New(t.Context(), Options{User: "nobody", Programs: []string{path}, Try: []string{path}})
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(c.Listener().Close(), c.Close())) }()
	require.Len(t, c.Lacks(), 1)
	require.Equal(t, User, c.Lacks()[0].Layer)
	require.ErrorContains(t, c.Lacks()[0].Why, "permission denied")
}
