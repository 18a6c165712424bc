// Command build builds the pinned tools that are not in the cache yet. It is
// what `make tools` runs, from the root of the checkout.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/tools"
)

// A build of the largest tool takes six minutes on two cores from nothing.
const buildTimeout = 30 * time.Minute

func main() {
	develop := flag.Bool("develop", false, "also build the tools of developers")
	path := flag.String("path", "", "only print where the tool `NAME` is")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go run ./tools/build [-develop] [NAME…] | -path NAME")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *path != "" {
		where, err := tools.Path(*path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "tools:", err)
			os.Exit(1)
		}
		fmt.Println(where)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *develop, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "tools:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, develop bool, names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(tools.All(), func(t tools.Tool) bool { return t.Name == name }) {
			return fmt.Errorf("no tool is named %q", name)
		}
	}
	for _, t := range tools.All() {
		if len(names) > 0 && !slices.Contains(names, t.Name) || len(names) == 0 && t.For != tools.Running && !(develop && t.For == tools.Developing) {
			continue
		}
		if err := build(ctx, t); err != nil {
			return fmt.Errorf("build %s %s: %w", t.Name, t.Version, err)
		}
	}
	return nil
}

func build(ctx context.Context, t tools.Tool) error {
	target, err := t.Target()
	if err != nil {
		return err
	}
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	unlock, err := lock(target + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	// Another build may have finished while this one waited for the lock.
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	start := time.Now()
	fmt.Fprintf(os.Stderr, "tools: building %s %s (once; minutes at first)\n", t.Name, t.Version)
	partial := target + ".partial"
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", partial, t.Package)
	cmd.Dir = filepath.Join("tools", t.Name)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly", "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return err
	}
	if err := os.Rename(partial, target); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tools: built %s in %s\n", t.Name, time.Since(start).Round(time.Second))
	return nil
}

// lock keeps two builds of one tool apart, also those of different checkouts.
// The kernel releases it however the process ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
