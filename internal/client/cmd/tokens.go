package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/meridian-video/meridian/internal/client"
)

// Tokens is `meridian tokens`.
type Tokens struct {
	Create TokensCreate `cmd:"" help:"Make a token that lets someone watch a private asset."`
	Revoke TokensRevoke `cmd:"" help:"Revoke tokens; what they let play ends at every edge within seconds."`
}

// TokensCreate is `meridian tokens create`.
type TokensCreate struct {
	client.Config `embed:""`
	output        `embed:""`
	Asset         string        `arg:"" help:"Asset id."`
	Expires       time.Duration `help:"How long watching may be started." default:"1h"`
}

// Run makes a token.
func (t *TokensCreate) Run(ctx context.Context) error {
	if t.Expires < time.Second {
		return errors.New("--expires: want 1s or more")
	}
	c, err := t.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	tok, err := c.CreateToken(ctx, t.Asset, t.Expires)
	if err != nil {
		return explain(err, "asset "+t.Asset)
	}
	p := newPrinter(t.Out, t.Err, t.JSON)
	p.json(tok)
	p.line("id     %s", tok.ID)
	p.line("until  %s", tok.ExpiresAt.Local().Format(time.DateTime))
	p.line("watch  %s", tok.Watch)
	p.line("HLS    %s", tok.Master)
	return nil
}

// TokensRevoke is `meridian tokens revoke`.
type TokensRevoke struct {
	client.Config `embed:""`
	output        `embed:""`
	Asset         string   `arg:"" help:"Asset id."`
	IDs           []string `arg:"" name:"id" help:"Token ids, as create has printed them."`
}

// Run revokes.
func (t *TokensRevoke) Run(ctx context.Context) error {
	c, err := t.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	p := newPrinter(t.Out, t.Err, t.JSON)
	var errs []error
	for _, id := range t.IDs {
		if err := c.RevokeToken(ctx, t.Asset, id); err != nil {
			errs = append(errs, explain(err, "token "+id))
			continue
		}
		p.json(map[string]any{"event": "revoked", "asset": t.Asset, "token": id})
		p.line("%s revoked %s", p.mark("✓"), id)
	}
	return errors.Join(errs...)
}
