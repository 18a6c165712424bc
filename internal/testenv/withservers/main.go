// Command withservers runs a command with shared test servers: one PostgreSQL
// and three MinIO servers, named in the environment. `make test` runs go test
// below it, so that not every package starts its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/testenv"
)

const objectStores = 3

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: withservers COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "withservers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, argv []string) error {
	start := time.Now()
	var pg *testenv.PostgresServer
	stores := make([]testenv.S3Server, objectStores)
	servers := make([]*testenv.MinIOServer, objectStores)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { pg, err = testenv.StartPostgres(gctx); return err })
	for i := range stores {
		g.Go(func() error {
			m, err := testenv.StartMinIO(gctx)
			if err != nil {
				return err
			}
			servers[i], stores[i] = m, m.S3Server
			return nil
		})
	}
	err := g.Wait()
	defer func() {
		if pg != nil {
			pg.Stop()
		}
		for _, m := range servers {
			if m != nil {
				m.Stop()
			}
		}
	}()
	if err != nil {
		return err
	}
	list, err := json.Marshal(stores)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "withservers: one PostgreSQL and %d MinIO ready after %s\n", len(stores), time.Since(start).Round(100*time.Millisecond))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), testenv.PostgresEnv+"="+pg.DSN, testenv.S3Env+"="+string(list))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd.Run()
}
