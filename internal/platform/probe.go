package platform

import (
	"context"
	"fmt"
	"strings"

	"github.com/meridian-video/meridian/internal/ask"
)

// httpReady asks a health page; want is the status that means ready, and
// contains, if not empty, what the answer must hold.
func httpReady(url string, want int, contains string) func(context.Context) error {
	return func(ctx context.Context) error {
		res, b, err := ask.Once(ctx, url, 2000)
		if err != nil {
			return err
		}
		if res.StatusCode != want || !strings.Contains(string(b), contains) {
			return fmt.Errorf("%s: %s: %s", url, res.Status, strings.TrimSpace(string(b)))
		}
		return nil
	}
}
