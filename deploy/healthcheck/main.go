// Command healthcheck asks one URL and exits 0 when the answer is the expected
// one, else 1 and says what it was. It is in every image, which have no other
// HTTP client.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "healthcheck:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("healthcheck", flag.ContinueOnError)
	status := f.Int("status", http.StatusOK, "expected status")
	contains := f.String("contains", "", "text the answer must hold")
	ca := f.String("ca", "", "certificate authority of the server, PEM `file`")
	timeout := f.Duration("timeout", 3*time.Second, "for the whole request")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("want one URL")
	}
	client := &http.Client{Timeout: *timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if *ca != "" {
		b, err := os.ReadFile(*ca)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return fmt.Errorf("%s: want certificates in PEM", *ca)
		}
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	resp, err := client.Get(f.Arg(0))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != *status {
		return fmt.Errorf("status %d, want %d: %s", resp.StatusCode, *status, strings.TrimSpace(string(body)))
	}
	if !strings.Contains(string(body), *contains) {
		return fmt.Errorf("the answer lacks %q: %s", *contains, strings.TrimSpace(string(body)))
	}
	return nil
}
