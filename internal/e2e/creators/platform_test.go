package creators

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
)

// threeRegions is a running platform.
type threeRegions struct {
	*stack.Stack
	// kept are the assets that were seen ready, with the number in the last title
	// that was acknowledged: whatever is lost later, they stay so.
	kept map[string]int
}

var platform *threeRegions

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	s, err := stack.Start(stack.Options{Name: "creators", Args: []string{"--network", "220"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	platform = &threeRegions{s, map[string]int{}}
	return s.Run(m)
}

// requireKept checks in every region that nothing acknowledged was taken back.
func (s *threeRegions) requireKept(t *testing.T) {
	t.Helper()
	for _, name := range s.Table.Names() {
		c := s.client(t, s.Region(name).API)
		for asset, take := range s.kept {
			eventually(t, 30*time.Second, func(ctx context.Context) error {
				a, err := c.Asset(ctx, asset)
				if err != nil {
					return err
				}
				now := 0
				if take > 0 {
					if _, err := fmt.Sscanf(a.Title, "Take %d", &now); err != nil {
						return fmt.Errorf("title %q: %w", a.Title, err)
					}
				}
				if a.State != "ready" || now < take {
					return fmt.Errorf("%s in %s is %q with take %d, it was ready with %d", asset, name, a.State, now, take)
				}
				return nil
			})
		}
	}
}

// others are the regions but one, in table order.
func (s *threeRegions) others(than string) []string {
	var out []string
	for _, name := range s.Table.Names() {
		if name != than {
			out = append(out, name)
		}
	}
	return out
}

// client is a creator's, who prefers the first region and knows the others too.
func (s *threeRegions) client(t *testing.T, bases ...string) *client.Client {
	c := client.New(bases, s.Key)
	t.Cleanup(c.Close)
	return c
}

// bases are the URLs of all APIs, those of the named regions first.
func (s *threeRegions) bases(first ...string) []string {
	var out []string
	for _, name := range first {
		out = append(out, s.Region(name).API)
	}
next:
	for _, r := range s.Table.Regions {
		for _, name := range first {
			if r.Name == name {
				continue next
			}
		}
		out = append(out, r.API)
	}
	return out
}

// catalog opens the platform's database.
func (s *threeRegions) catalog(t *testing.T) *catalog.Catalog {
	t.Helper()
	password, err := s.Secret("postgres.secret")
	require.NoError(t, err)
	cfg := catalog.Config{User: "meridian", Password: service.Secret(password), Database: "meridian"}
	c, err := catalog.Open(cfg.DSN(s.Table.PostgresDSNHosts("eu")), s.Table.Farthest("eu"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// store opens the platform's object stores.
func (s *threeRegions) store(t *testing.T) *objects.Store {
	t.Helper()
	secret, err := s.Secret("s3.secret")
	require.NoError(t, err)
	st, err := objects.New(s.Table, "eu", objects.Config{AccessKey: "meridian", SecretKey: service.Secret(secret), Bucket: "meridian"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(st.Close)
	return st
}

// patroni is the URL of a region's Patroni.
func (s *threeRegions) patroni(name string) string {
	host, _, _ := strings.Cut(s.Region(name).Postgres, ":")
	return "http://" + host + ":8008"
}

// leader is the region whose PostgreSQL leads.
func (s *threeRegions) leader(t *testing.T) string {
	t.Helper()
	var found string
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for _, r := range s.Table.Regions {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.patroni(r.Name)+"/primary", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				continue
			}
			if err := resp.Body.Close(); err != nil {
				return err
			}
			if resp.StatusCode == http.StatusOK {
				found = r.Name
				return nil
			}
		}
		return errors.New("PostgreSQL has no leader")
	})
	return found
}

// leadStreams moves the leaders of all streams to a region.
func (s *threeRegions) leadStreams(t *testing.T, to string) {
	t.Helper()
	nc, err := nats.Connect(strings.Join(s.Table.NATSURLs(to), ","), nats.DontRandomize(), nats.Timeout(2*time.Second))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	for _, name := range []string{"JOBS", "EVENTS", "DEAD"} {
		eventually(t, 30*time.Second, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			str, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			if str.CachedInfo().Cluster.Leader == to {
				return nil
			}
			b, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": to}})
			if err != nil {
				return err
			}
			if _, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+name, b); err != nil {
				return err
			}
			return fmt.Errorf("stream %s is led by %s", name, str.CachedInfo().Cluster.Leader)
		})
	}
}

// eventually tries until it succeeds.
func eventually(t *testing.T, within time.Duration, try func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := try(t.Context())
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within || t.Context().Err() != nil {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
