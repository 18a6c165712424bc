package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/meridian-video/meridian/internal/platform/supervise"
)

// controlSocket, in the state directory, answers questions about a running
// platform to its owner.
const controlSocket = "control.sock"

type controlServer struct {
	server *http.Server
	done   chan struct{}
}

func serveControl(path string, sup *supervise.Supervisor) (*controlServer, error) {
	// We hold the state directory: a socket there is one an earlier run left.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A caller who is gone needs no answer.
		_ = json.NewEncoder(w).Encode(sup.Status())
	})
	c := &controlServer{done: make(chan struct{}), server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}}
	go func() {
		defer close(c.done)
		// Ends by close only; a platform whose status can't be asked still runs.
		_ = c.server.Serve(l)
	}()
	return c, nil
}

func (c *controlServer) close() {
	_ = c.server.Close()
	<-c.done
}

// StatusCommand is `meridian status`.
type StatusCommand struct {
	State string `help:"Directory of all state, as given to up." env:"MERIDIAN_STATE" placeholder:"DIR"`
	JSON  bool   `help:"Print JSON."`
}

// Run asks the running platform and prints its processes. It fails unless all are ready.
func (c *StatusCommand) Run(ctx context.Context) error {
	dir, err := (&Command{State: c.State}).stateDir()
	if err != nil {
		return err
	}
	list, err := askStatus(ctx, filepath.Join(dir, controlSocket))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no platform runs on %s; start one with `meridian up`, or name its directory with --state", dir)
	}
	if err != nil {
		return fmt.Errorf("status of the platform on %s: %w", dir, err)
	}
	if c.JSON {
		if err := json.NewEncoder(os.Stdout).Encode(list); err != nil {
			return err
		}
	} else if err := printStatus(list); err != nil {
		return err
	}
	waiting := 0
	for _, s := range list {
		if s.State != supervise.Ready {
			waiting++
		}
	}
	if waiting > 0 {
		return fmt.Errorf("%d of %d processes are not ready", waiting, len(list))
	}
	return nil
}

func askStatus(ctx context.Context, socket string) ([]supervise.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://platform/status", nil)
	if err != nil {
		return nil, err
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	var list []supervise.Status
	return list, json.NewDecoder(res.Body).Decode(&list)
}

func printStatus(list []supervise.Status) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REGION\tPROCESS\tSTATE\tSINCE\tRESTARTS\tPID\tPROBLEM")
	for _, s := range list {
		pid := "-"
		if s.PID > 0 {
			pid = fmt.Sprint(s.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.Group, s.Name, s.State, time.Since(s.Since).Round(time.Second), s.Restarts, pid, s.Problem)
	}
	return t.Flush()
}
