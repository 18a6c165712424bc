// Command healthcheck is the health check of every image, none of which has another
// HTTP client: it exits 0 when a server answers as it should, else 1 and says why not.
//
// To start a process in a container costs an engine a third of a second of processor
// time, and there are nine containers in a region. So with -stay it asks on by itself
// for that long while all is well, and ends at once when there is news: see watch.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "healthcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("healthcheck", flag.ContinueOnError)
	status := f.Int("status", http.StatusOK, "expected status")
	contains := f.String("contains", "", "text the answer must hold")
	ca := f.String("ca", "", "certificate authority of the server, PEM `file`")
	nats := f.Bool("nats", false, "the URL is of a NATS server's monitoring; one that has lost its streams is ended")
	timeout := f.Duration("timeout", 3*time.Second, "for one question")
	stay := f.Duration("stay", 0, "how long to go on asking while all is well")
	told := f.String("told", "/dev/shm/healthy", "with -stay: `file` on a file system of the container's that a restart empties")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("want one URL")
	}
	check := checkNATS(f.Arg(0))
	if !*nats {
		client, err := newClient(*ca)
		if err != nil {
			return err
		}
		check = func(ctx context.Context) error { return ask(ctx, client, f.Arg(0), *status, *contains) }
	}
	w := watch{check: check, timeout: *timeout, stay: *stay, told: *told, soon: 250 * time.Millisecond, later: 2 * time.Second}
	return w.run(ctx)
}

// newClient trusts the authorities of a file, or the system's without one.
func newClient(ca string) (*http.Client, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if ca == "" {
		return client, nil
	}
	b, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: want certificates in PEM", ca)
	}
	client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return client, nil
}

// ask says how the answer of a URL isn't the expected one.
func ask(ctx context.Context, client *http.Client, url string, status int, contains string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("status %d, want %d: %s", resp.StatusCode, status, strings.TrimSpace(string(body)))
	}
	if !strings.Contains(string(body), contains) {
		return fmt.Errorf("the answer lacks %q: %s", contains, strings.TrimSpace(string(body)))
	}
	return nil
}
