package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/meridian-video/meridian/internal/service"
)

// configFile adds --config to every command.
type configFile struct {
	Config  kong.ConfigFlag  `help:"YAML file with any of the flags as keys; unknown keys are errors." env:"MERIDIAN_CONFIG" placeholder:"FILE"`
	Version kong.VersionFlag `help:"Say which version this is, and exit."`
}

// Main parses args against grammar (a pointer to a struct of kong commands,
// each with a Run(context.Context) error method), runs the chosen command and
// returns the process's exit code.
func Main(args []string, grammar any) int {
	parser, err := kong.New(grammar,
		kong.Name("meridian"),
		kong.Description("Self-hosted, multi-region video streaming."),
		kong.Embed(&configFile{}),
		kong.Configuration(service.YAMLFile),
		kong.UsageOnError(),
		kong.Vars{"version": version},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "meridian:", err)
		return 2
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "meridian:", err)
		return 2
	}
	ctx, stop := signalContext()
	defer stop()
	kctx.BindTo(ctx, (*context.Context)(nil))
	if err := kctx.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "meridian:", err)
		return 1
	}
	return 0
}

// signalContext is cancelled by the first SIGINT, SIGTERM or SIGHUP; the second ends
// the process. Under nohup a terminal may go.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	signal.Notify(ch, signals...)
	go func() {
		if _, ok := <-ch; !ok {
			return
		}
		cancel()
		if _, ok := <-ch; ok {
			os.Exit(130)
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); cancel() }
}
