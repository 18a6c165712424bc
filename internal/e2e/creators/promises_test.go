package creators

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// call sends a request to a region's API.
func (s *threeRegions) call(t *testing.T, region, method, path, body string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.Region(region).API+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.Key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, b
}

// waiting makes an asset without an upload.
func (s *threeRegions) waiting(t *testing.T) string {
	t.Helper()
	resp, b := s.call(t, "eu", http.MethodPost, "/v1/assets", `{"visibility": "private"}`)
	require.Equal(t, 201, resp.StatusCode, "%s", b)
	var a client.Asset
	require.NoError(t, json.Unmarshal(b, &a))
	return a.ID
}

// TestCreatorsReadTheirOwnWrites: whatever region answers, whose database may
// follow and be behind.
func TestCreatorsReadTheirOwnWrites(t *testing.T) {
	testenv.Long(t)
	s := platform
	asset := s.waiting(t)
	for n := range 10 {
		for _, writer := range s.Table.Names() {
			title := fmt.Sprintf("%s %d", writer, n)
			w, b := s.call(t, writer, http.MethodPatch, "/v1/assets/"+asset, `{"title": "`+title+`"}`)
			require.Equal(t, 200, w.StatusCode, "%s", b)
			session := w.Header.Get("Meridian-Session")
			require.NotEmpty(t, session)
			for _, reader := range s.Table.Names() {
				r, b := s.call(t, reader, http.MethodGet, "/v1/assets/"+asset, "", "Meridian-Session", session)
				require.Equal(t, 200, r.StatusCode, "%s", b)
				var a client.Asset
				require.NoError(t, json.Unmarshal(b, &a))
				require.Equal(t, title, a.Title, "written in %s, read in %s", writer, reader)
			}
		}
	}
}

// TestPoolsLeaveADemotedLeader switches PostgreSQL's leader over in order, while
// creators of all regions write.
func TestPoolsLeaveADemotedLeader(t *testing.T) {
	testenv.Long(t)
	s := platform
	asset := s.waiting(t)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watchers := map[string]*watcher{}
	for _, name := range s.Table.Names() {
		w := &watcher{api: s.Region(name).API, key: s.Key, asset: asset, http: &http.Client{Timeout: 20 * time.Second}}
		watchers[name] = w
		watching.Go(func() { w.watch(ctx) })
	}
	defer func() { stop(); watching.Wait() }()
	from := s.leader(t)
	to := s.switchover(t, from)
	eventually(t, 30*time.Second, func(context.Context) error {
		if now := s.leader(t); now != to {
			return fmt.Errorf("%s leads", now)
		}
		return nil
	})
	time.Sleep(5 * time.Second) // and on: nobody may stay with the old one
	stop()
	watching.Wait()
	for name, w := range watchers {
		t.Logf("answers at %s while %s handed over to %s: %v; longest time without one: %v", name, from, to, w.answers, w.longest.Round(10*time.Millisecond))
		require.Empty(t, w.wrong, name)
		require.LessOrEqual(t, w.longest, outage, name)
		testenv.Figure(t, "leader switched over: longest time without a success in "+name, "%.1f s", w.longest.Seconds())
	}
	resp, b := s.call(t, from, http.MethodPatch, "/v1/assets/"+asset, `{"title": "after"}`)
	require.Equal(t, 200, resp.StatusCode, "%s", b)
}

// switchover asks Patroni to make the synchronous standby the leader.
func (s *threeRegions) switchover(t *testing.T, from string) (to string) {
	t.Helper()
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		who, err := s.standbysNow(ctx, from)
		if err != nil {
			return err
		}
		to = who.sync
		b, err := json.Marshal(map[string]string{"leader": from, "candidate": to})
		if err != nil {
			return err
		}
		_, err = request(ctx, http.MethodPost, s.patroni(from)+"/switchover", b)
		return err
	})
	return to
}

func request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, b)
	}
	return b, err
}

var sessionInMaster = regexp.MustCompile(`/v/([^/]+)/`)

// TestRevokedTokensAreRefusedByEveryEdge: with their sessions, and no others.
func TestRevokedTokensAreRefusedByEveryEdge(t *testing.T) {
	testenv.Long(t)
	s := platform
	c := s.client(t, s.bases("us")...)
	up, err := c.Upload(t.Context(), client.Upload{Path: video(t, 50, 0), Visibility: "private", StateDir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, ready(t.Context(), c, up.Asset))
	create := func() client.Token {
		tok, err := c.CreateToken(t.Context(), up.Asset, time.Hour)
		require.NoError(t, err)
		return tok
	}
	stolen, kept := create(), create()
	get := func(edge, tok string) (int, []byte) {
		resp, err := http.Get(edge + "/v/" + tok + "/" + up.Asset + "/master.m3u8")
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, b
	}
	var edges []string
	for _, r := range s.Table.Regions {
		for _, e := range r.Edges {
			edges = append(edges, e.URL)
		}
	}
	session := ""
	for _, e := range edges {
		for _, tok := range []string{stolen.Token, kept.Token} {
			eventually(t, 30*time.Second, func(context.Context) error { // a replica may be on its way
				status, b := get(e, tok)
				if status != 200 {
					return fmt.Errorf("%s: %d: %s", e, status, b)
				}
				if m := sessionInMaster.FindSubmatch(b); m != nil && tok == stolen.Token {
					session = string(m[1])
				}
				return nil
			})
		}
		status, _ := get(e, token.None)
		require.Equal(t, 401, status, e)
	}
	require.NotEmpty(t, session)
	require.NoError(t, c.RevokeToken(t.Context(), up.Asset, stolen.ID))
	took := eventually(t, 30*time.Second, func(context.Context) error {
		for _, e := range edges {
			for name, tok := range map[string]string{"token": stolen.Token, "session": session} {
				if status, _ := get(e, tok); status != 403 {
					return fmt.Errorf("%s: %s gets %d", e, name, status)
				}
			}
		}
		return nil
	})
	testenv.Figure(t, "token revoked: refused by the edges of all regions", "after %.1f s", took.Seconds())
	for _, e := range edges {
		status, _ := get(e, kept.Token)
		require.Equal(t, 200, status, e)
	}
}

// TestReconcile: the operator's command finds every byte of all regions right,
// and what is wrong.
func TestReconcile(t *testing.T) {
	testenv.Long(t)
	s := platform
	run := func(args ...string) (repair.Report, error) {
		out, _, err := s.CLI(t.Context(), append([]string{"reconcile", "--config", filepath.Join(s.State(), "operator.yaml"), "--json"}, args...)...)
		var r repair.Report
		require.NoError(t, json.Unmarshal([]byte(out), &r), "%s%v", out, err)
		return r, err
	}
	var whole repair.Report
	eventually(t, time.Minute, func(context.Context) error {
		var err error
		whole, err = run("--read")
		return err
	})
	require.Len(t, whole.Regions, 3)
	require.Empty(t, whole.Findings)
	for _, r := range whole.Regions {
		require.True(t, r.Reached)
		require.NotZero(t, r.Read)
		require.LessOrEqual(t, r.Read, r.Objects)
	}
	testenv.Figure(t, "reconcile --read", "%d objects named, %s read, %.1f s", whole.Named, strconv.FormatInt(whole.Regions[0].Read+whole.Regions[1].Read+whole.Regions[2].Read, 10), whole.Seconds)

	// A copy that vanishes and a file of somebody's own.
	store := s.store(t)
	key, err := store.In("ap").Last(t.Context(), "streams/")
	require.NoError(t, err)
	require.NoError(t, store.In("ap").Delete(t.Context(), key))
	r, err := run("--settled", "0s")
	require.Error(t, err)
	found := false
	for _, f := range r.Findings {
		found = found || f.Kind == repair.Missing && f.Region == "ap" && f.Key == key
	}
	require.True(t, found, "%+v", r.Findings)
	require.Zero(t, r.Lost)
	out, _, err := s.CLI(t.Context(), "reconcile", "--config", filepath.Join(s.State(), "operator.yaml"))
	require.Contains(t, out, "REGION")
	t.Logf("%s%v", out, err)
}
