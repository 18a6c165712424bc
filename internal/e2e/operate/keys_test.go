package operate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/region"
)

// restarts a region by the document's next two commands.
func (o *operator) restarts(region string) {
	o.t.Helper()
	o.runs("bin/meridian region stop " + region)
	o.runs("bin/meridian region start " + region)
}

// begins a session with a token at a region's router, and returns the last answer's status.
func begins(ctx context.Context, r region.Region, asset, token string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Router.URL+"/v/"+token+"/"+asset+"/master.m3u8", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode, err
}

// answers waits until sessions with a token are answered so at every region.
func (o *operator) answers(status int, asset, token string) {
	o.t.Helper()
	for _, r := range o.Table.Regions {
		eventually(o.t, 20*time.Second, func() error {
			got, err := begins(o.t.Context(), r, asset, token)
			if err == nil && got != status {
				err = fmt.Errorf("%s answers %d, want %d", r.Name, got, status)
			}
			return err
		})
	}
}

func (o *operator) token(asset string) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 30*time.Second)
	defer cancel()
	tok, err := o.client().CreateToken(ctx, asset, time.Hour)
	require.NoError(o.t, err)
	return tok.Token
}

func TestKeysAreRotated(t *testing.T) {
	o := newOperator(t, "keys.md")
	asset := o.upload(50, func(u *client.Upload) { u.Visibility = "private" })
	old := o.token(asset)
	o.answers(http.StatusOK, asset, old)
	require.Contains(t, o.runs("bin/meridian keys list"), "playback-1")
	require.Contains(t, o.runs("bin/meridian keys rotate playback"), "playback-2")
	for _, r := range o.Table.Names() {
		o.restarts(r)
	}
	next := o.token(asset)
	o.answers(http.StatusOK, asset, next)
	o.answers(http.StatusOK, asset, old)
	o.runs("bin/meridian keys revoke playback-1")
	o.answers(http.StatusForbidden, asset, old)
	o.answers(http.StatusOK, asset, next)

	require.Contains(t, o.runs("bin/meridian keys rotate session --region eu"), "session-eu-2")
	require.Contains(t, o.runs("bin/meridian keys rotate record"), "record-2")
	require.Len(t, o.document, 2, "passwords, which another test changes")
	for _, r := range o.Table.Names() {
		o.Regions(t, "stop", r)
		o.Regions(t, "start", r)
	}
	// Records of both keys are obeyed.
	o.answers(http.StatusOK, asset, next)
	o.plays(o.upload(25), 25)
}
