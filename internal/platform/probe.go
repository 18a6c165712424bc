package platform

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// httpReady asks a health page; want is the status that means ready, and
// contains, if not empty, what the answer must hold.
func httpReady(url string, want int, contains string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		// One connection a probe: a kept one would outlive the process it led to.
		res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, 2000))
		if err != nil {
			return err
		}
		if res.StatusCode != want || !strings.Contains(string(b), contains) {
			return fmt.Errorf("%s: %s: %s", url, res.Status, strings.TrimSpace(string(b)))
		}
		return nil
	}
}
