package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Failure says why an asset failed.
type Failure struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Progress of an asset, Upload and Encode from 0 to 1; SecondsLeft of the encode is nil
// while that can't be told.
type Progress struct {
	BytesReceived int64   `json:"bytes_received"`
	BytesTotal    int64   `json:"bytes_total"`
	FramesDone    int64   `json:"frames_done"`
	FramesTotal   int64   `json:"frames_total"`
	SecondsLeft   *int64  `json:"seconds_left"`
	Upload        float64 `json:"upload"`
	Encode        float64 `json:"encode"`
}

// Asset is a video as the API shows it.
type Asset struct {
	ID         string    `json:"id"`
	Title      string    `json:"title"`
	State      string    `json:"state"`
	Failure    *Failure  `json:"failure"`
	Visibility string    `json:"visibility"`
	Placement  Placement `json:"placement"`
	Region     string    `json:"region"`
	Size       *int64    `json:"size"`
	Duration   *float64  `json:"duration"`
	Progress   *Progress `json:"progress,omitempty"`
	Playback   struct {
		Watch  string  `json:"watch"`
		Master *string `json:"master"`
		Poster *string `json:"poster"`
		Extras *string `json:"extras"`
	} `json:"playback"`
	UploadURL  string     `json:"upload_url,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	ReceivedAt *time.Time `json:"received_at"`
	PlayableAt *time.Time `json:"playable_at"`
	ReadyAt    *time.Time `json:"ready_at"`
	FailedAt   *time.Time `json:"failed_at"`
}

// Placement says where an asset's bytes live.
type Placement struct {
	Mode    string   `json:"mode"`
	Regions []string `json:"regions,omitempty"`
	Copies  int      `json:"copies"`
}

// Asset returns one asset.
func (c *Client) Asset(ctx context.Context, id string) (Asset, error) {
	var a Asset
	err := c.call(ctx, http.MethodGet, "/v1/assets/"+url.PathEscape(id), nil, &a, nil)
	return a, err
}

// Assets returns one page of at most limit assets, newest first, those in state
// if it isn't empty, after cursor if it isn't empty, and the next page's cursor.
func (c *Client) Assets(ctx context.Context, state, cursor string, limit int) ([]Asset, string, error) {
	q := url.Values{}
	for k, v := range map[string]string{"state": state, "cursor": cursor} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var page struct {
		Assets     []Asset `json:"assets"`
		NextCursor *string `json:"next_cursor"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/assets?"+q.Encode(), nil, &page, nil); err != nil {
		return nil, "", err
	}
	next := ""
	if page.NextCursor != nil {
		next = *page.NextCursor
	}
	return page.Assets, next, nil
}

// DeleteAsset deletes an asset.
func (c *Client) DeleteAsset(ctx context.Context, id string) error {
	unsure := false // an earlier try may have deleted it, though its answer was lost
	return c.again(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := c.request(ctx, http.MethodDelete, "/v1/assets/"+url.PathEscape(id), nil, nil)
		if err == nil {
			return resp.Body.Close()
		}
		var p *Problem
		answered := errors.As(err, &p)
		if unsure && answered && p.Status == http.StatusNotFound {
			return nil
		}
		unsure = unsure || !answered || p.Status >= http.StatusInternalServerError
		return err
	})
}

// Run is one encode of an asset.
type Run struct {
	Run     string `json:"run"`
	State   string `json:"state"`
	Profile string `json:"profile"`
	// Current is the run viewers see.
	Current   bool       `json:"current"`
	Failure   *Failure   `json:"failure"`
	CreatedAt time.Time  `json:"created_at"`
	EndedAt   *time.Time `json:"ended_at"`
}

// Runs lists an asset's encodes, the oldest first.
func (c *Client) Runs(ctx context.Context, asset string) ([]Run, error) {
	var out struct {
		Runs []Run `json:"runs"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/assets/"+url.PathEscape(asset)+"/runs", nil, &out, nil)
	return out.Runs, err
}

// Encode has a ready asset encoded anew; profile may be empty.
func (c *Client) Encode(ctx context.Context, asset, profile string) (Run, error) {
	in := map[string]any{}
	if profile != "" {
		in["profile"] = profile
	}
	var r Run
	err := c.call(ctx, http.MethodPost, "/v1/assets/"+url.PathEscape(asset)+"/runs", in, &r, nil)
	return r, err
}

// CancelRun ends a run that was to replace the one viewers see.
func (c *Client) CancelRun(ctx context.Context, asset, run string) error {
	return c.call(ctx, http.MethodDelete, "/v1/assets/"+url.PathEscape(asset)+"/runs/"+url.PathEscape(run), nil, nil, nil)
}

// Token is a new playback token.
type Token struct {
	// ID names it when it is to be revoked.
	ID        string    `json:"id"`
	KID       string    `json:"kid"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	// Master and Watch are URLs with the token in them.
	Master string `json:"master"`
	Watch  string `json:"watch"`
}

// CreateToken makes a token that lets an asset be watched, to be started within
// life, in whole seconds.
func (c *Client) CreateToken(ctx context.Context, asset string, life time.Duration) (Token, error) {
	var t Token
	in := map[string]any{"expires_in": int64(life / time.Second)}
	err := c.call(ctx, http.MethodPost, "/v1/assets/"+url.PathEscape(asset)+"/tokens", in, &t, nil)
	return t, err
}

// RevokeToken ends a token, by its id, and the sessions it started.
func (c *Client) RevokeToken(ctx context.Context, asset, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/assets/"+url.PathEscape(asset)+"/tokens/"+url.PathEscape(id), nil, nil, nil)
}
