// Package ask asks processes that may end at any time, about their health for one.
package ask

import (
	"context"
	"io"
	"net/http"
)

// Once asks one URL, see Do.
func Once(ctx context.Context, url string, most int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	return Do(req, most)
}

// Do returns the answer with up to most bytes of its body, which is closed. Each question
// has a connection of its own: a kept one would outlive the process it led to.
func Do(req *http.Request, most int64) (*http.Response, []byte, error) {
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, most))
	return res, b, err
}
