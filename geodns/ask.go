package geodns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/token"
)

// asker asks a router.
type asker struct {
	Router string `help:"URL of the router to ask." default:"http://127.1.0.1:8081" env:"MERIDIAN_ROUTER" placeholder:"URL"`
}

const maxExplanation = 1 << 20

// do asks and writes a good answer to out.
func (a asker) do(ctx context.Context, method, path string, q url.Values, body []byte, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(a.Router, "/")+path+"?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--router: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxExplanation))
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var p struct {
			Detail string `json:"detail"`
		}
		if json.Unmarshal(b, &p) != nil || p.Detail == "" {
			p.Detail = res.Status
		}
		return fmt.Errorf("router: %s", p.Detail)
	}
	_, err = out.Write(b)
	return err
}

// ExplainCommand asks a router where a viewer is sent.
type ExplainCommand struct {
	asker `embed:""`
	IP    string `arg:"" help:"The viewer's address."`
	Asset string `help:"For this asset, with its placement." placeholder:"ID"`
	Name  string `help:"And what DNS answers for this name." placeholder:"NAME"`
	All   bool   `help:"Every region and edge on a line of its own."`
	JSON  bool   `name:"json" help:"For programs."`
}

// Run prints the explanation.
func (c *ExplainCommand) Run(ctx context.Context) error {
	if c.IP == "" { // a router would explain the asker's own
		return errors.New("ip: want an IPv4 or IPv6 address")
	}
	q := url.Values{"ip": {c.IP}, "format": {"line"}}
	if c.Asset != "" {
		q.Set("asset", c.Asset)
	}
	if c.Name != "" {
		q.Set("name", c.Name)
	}
	if c.All {
		q.Set("format", "text")
	}
	if c.JSON {
		q.Set("format", "json")
	}
	return c.do(ctx, http.MethodGet, "/explain", q, nil, os.Stdout)
}

// RoutingCommand asks a router what operators have told it.
type RoutingCommand struct {
	asker `embed:""`
}

// Run prints the routing the router obeys.
func (c *RoutingCommand) Run(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, "/routing", nil, nil, os.Stdout)
}

// change has the router write what becomes of the routing it obeys, signed here.
func (a asker) change(ctx context.Context, out io.Writer, s *token.Signer, change func(*journal.Routing) error) error {
	var b bytes.Buffer
	if err := a.do(ctx, http.MethodGet, "/routing", url.Values{"format": {"json"}}, nil, &b); err != nil {
		return err
	}
	var r journal.Routing
	if err := json.Unmarshal(b.Bytes(), &r); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	if err := change(&r); err != nil {
		return err
	}
	r.N, r.At = r.N+1, time.Now().UTC().Truncate(time.Second)
	body, err := journal.SignRouting(r, s)
	if err != nil {
		return err
	}
	return a.do(ctx, http.MethodPut, "/routing", nil, body, out)
}
