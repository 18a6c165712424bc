package load

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of /proc/stat: a hundredth of a second on every Linux.
const userHZ = 10 * time.Millisecond

// CPU is the process's share of the processor time it can have: of what it uses
// and what idle and niced work leaves, at least half of the machine, which the
// scheduler gives it against others of its kind; or of its control group's quota
// (cgroup v2, cpu.max), whichever is nearer its end. So a neighbour that takes
// much makes an idle edge no busier, and work that gives way to it counts as free.
func CPU() Source {
	c := &cpu{cores: float64(runtime.NumCPU()), group: groupDir("/proc/self/cgroup", "/sys/fs/cgroup")}
	return Source{Name: "cpu", Use: func(dt time.Duration) (float64, bool) {
		now, ok := c.read()
		use, known := c.use(c.last, now, dt)
		had := c.ok
		c.last, c.ok = now, ok
		return use, known && ok && had && dt > 0
	}}
}

type cpu struct {
	cores float64
	group string // its directory; "" for none
	last  cpuTimes
	ok    bool
}

// cpuTimes are times since some start.
type cpuTimes struct {
	own, free time.Duration
	// used of the group, which may use quota processors; 0 means no limit.
	used  time.Duration
	quota float64
}

func (c *cpu) use(a, b cpuTimes, dt time.Duration) (float64, bool) {
	if dt <= 0 {
		return 0, false
	}
	all := c.cores * dt.Seconds()
	own := (b.own - a.own).Seconds()
	free := min((b.free - a.free).Seconds(), all-own)
	use := own / max(own+free, all/2)
	if b.quota > 0 {
		use = max(use, (b.used-a.used).Seconds()/(b.quota*dt.Seconds()))
	}
	return use, true
}

func (c *cpu) read() (cpuTimes, bool) {
	var t cpuTimes
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return t, false
	}
	t.own = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, false
	}
	// The raw system call's result: 20 minus the nice value.
	prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	var ok bool
	if t.free, ok = parseStat(b, err == nil && prio >= 20); !ok {
		return t, false
	}
	if c.group != "" {
		limit, err := os.ReadFile(filepath.Join(c.group, "cpu.max"))
		if err != nil {
			return t, true
		}
		stat, err := os.ReadFile(filepath.Join(c.group, "cpu.stat"))
		if err != nil {
			return t, true
		}
		quota, limited := parseQuota(limit)
		used, known := parseUsage(stat)
		if limited && known {
			t.quota, t.used = quota, used
		}
	}
	return t, true
}

// parseStat returns the machine's idle time (proc_stat(5)), with what niced
// processes took where that gives way.
func parseStat(b []byte, niced bool) (time.Duration, bool) {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	f := strings.Fields(string(line))
	if len(f) < 6 || f[0] != "cpu" {
		return 0, false
	}
	var ticks int64
	for i, s := range f[1:6] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, false
		}
		if name := [...]string{"user", "nice", "system", "idle", "iowait"}[i]; name == "idle" || name == "iowait" || name == "nice" && niced {
			ticks += n
		}
	}
	return time.Duration(ticks) * userHZ, true
}

// groupDir is the directory of the process's control group, "" without cgroup v2.
func groupDir(self, root string) string {
	b, err := os.ReadFile(self)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		// In a container the path may be the host's, and the group at the root.
		for _, dir := range []string{filepath.Join(root, path), root} {
			if _, err := os.Stat(filepath.Join(dir, "cpu.max")); err == nil {
				return dir
			}
		}
	}
	return ""
}

// parseQuota reads cpu.max: "200000 100000" are two processors, "max" no limit.
func parseQuota(b []byte) (float64, bool) {
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return 0, false
	}
	quota, qerr := strconv.ParseFloat(f[0], 64)
	period, perr := strconv.ParseFloat(f[1], 64)
	if qerr != nil || perr != nil || !(quota > 0) || !(period > 0) {
		return 0, false
	}
	return quota / period, true
}

// parseUsage reads usage_usec of cpu.stat.
func parseUsage(b []byte) (time.Duration, bool) {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if v, ok := strings.CutPrefix(s.Text(), "usage_usec "); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			return time.Duration(n) * time.Microsecond, err == nil && n >= 0
		}
	}
	return 0, false
}
