// Command clockbuild builds meridian with a clock that can be wrong: time.Now is
// ahead by the seconds in MERIDIAN_CLOCK_AHEAD. Only drills want that. Durations
// are measured by the monotonic clock and stay right, as after a step of NTP.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

const (
	module = "github.com/meridian-video/meridian"
	// reads is the only place in package time where the wall clock is read for Now.
	reads = "\tsec, nsec, mono := runtimeNow()\n"
	ahead = `
var clockAhead = func() (ahead int64) {
	text, _ := syscall.Getenv("MERIDIAN_CLOCK_AHEAD")
	sign := int64(1)
	for i, c := range text {
		switch {
		case i == 0 && c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			ahead = 10*ahead + int64(c-'0')
		default:
			panic("MERIDIAN_CLOCK_AHEAD: want seconds, such as 90 or -90")
		}
	}
	return sign * ahead
}()
`
)

func main() {
	out := flag.String("o", "bin/meridian-drill", "where to put the program")
	more := flag.String("overlay", "", "file of other replacements, as for go build -overlay")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := build(ctx, *out, *more); err != nil {
		fmt.Fprintln(os.Stderr, "clockbuild:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, out, more string) (err error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("where Go is: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	b, err := os.ReadFile(original)
	if err != nil {
		return err
	}
	text, err := inject(string(b))
	if err != nil {
		return fmt.Errorf("%s: %w", original, err)
	}
	dir, err := os.MkdirTemp("", "clockbuild-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	replaced, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	var all struct{ Replace map[string]string }
	if more != "" {
		if b, err = os.ReadFile(more); err == nil {
			err = json.Unmarshal(b, &all)
		}
		if err != nil {
			return fmt.Errorf("-overlay: %w", err)
		}
	}
	if all.Replace == nil {
		all.Replace = map[string]string{}
	}
	all.Replace[original] = replaced
	list, err := json.Marshal(all)
	if err == nil {
		err = errors.Join(os.WriteFile(replaced, []byte(text), 0o600), os.WriteFile(overlay, list, 0o600))
	}
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-ldflags", "-X "+module+"/internal/platform.injectedClock=yes", "-o", out, module)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// inject puts the clock into package time.
func inject(text string) (string, error) {
	if strings.Count(text, reads) != 1 || !strings.Contains(text, "import (\n") {
		return "", errors.New("time.Now doesn't read the clock as in the Go this was written for; adapt clockbuild")
	}
	text = strings.Replace(text, reads, reads+"\tsec += clockAhead\n", 1)
	return strings.Replace(text, "import (\n", "import (\n\t\"syscall\"\n", 1) + ahead, nil
}
