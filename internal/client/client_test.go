package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	path, err := FilePath()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "meridian", "client.yaml"), path)

	_, err = Config{}.Client()
	require.ErrorContains(t, err, "--api or MERIDIAN_API, and an API key: --api-key or MERIDIAN_API_KEY")
	require.ErrorContains(t, err, path)

	require.NoError(t, File{API: "http://127.1.0.1:8080/", APIKey: "mk_file"}.Write(path))
	i, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), i.Mode().Perm())
	for name, x := range map[string]struct {
		c        Config
		api, key string
		err      string
	}{
		"file":                {Config{}, "http://127.1.0.1:8080", "mk_file", ""},
		"flags come first":    {Config{API: "https://b.example", APIKey: "mk_flag"}, "https://b.example", "mk_flag", ""},
		"key of the file":     {Config{API: "http://127.1.0.1:8080/"}, "http://127.1.0.1:8080", "mk_file", ""},
		"never to other APIs": {Config{API: "https://b.example"}, "", "", "missing an API key"},
		"not a URL":           {Config{API: "b.example", APIKey: "mk_x"}, "", "", `--api "b.example": want a URL`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := x.c.Client()
			if x.err != "" {
				require.ErrorContains(t, err, x.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, x.api, c.API())
			require.Equal(t, x.key, c.key)
		})
	}
	require.NoError(t, os.WriteFile(path, []byte("apikey: x\n"), 0o600))
	_, err = Config{}.Client()
	require.ErrorContains(t, err, "want the keys api and api_key")
	require.NotContains(t, service.Secret("mk_secret").String(), "mk_secret")
}

func TestCallsAreRepeated(t *testing.T) {
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch calls.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(Problem{Code: "unavailable", Detail: "wait"})
		case 2:
			panic(http.ErrAbortHandler) // a connection that breaks
		default:
			_ = json.NewEncoder(w).Encode(Asset{ID: "a", State: "ready"})
		}
	}))
	defer srv.Close()
	c := New([]string{"http://127.0.0.1:1", srv.URL}, "mk_x") // nobody listens at the first
	defer c.Close()
	began := time.Now()
	a, err := c.Asset(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "ready", a.State)
	require.GreaterOrEqual(t, time.Since(began), time.Second, "Retry-After is honoured")

	refuse := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer refuse.Close()
	c = New([]string{refuse.URL}, "mk_x")
	defer c.Close()
	calls.Store(0)
	_, err = c.Asset(t.Context(), "a")
	var p *Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "not-found", p.Code)
	require.EqualValues(t, 1, calls.Load(), "what can't help isn't repeated")
}

func TestDeletingTwiceIsDeleting(t *testing.T) {
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			panic(http.ErrAbortHandler) // deleted, but the answer is lost
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	c := New([]string{srv.URL}, "mk_x")
	defer c.Close()
	require.NoError(t, c.DeleteAsset(t.Context(), "a"))
	var p *Problem
	require.ErrorAs(t, c.DeleteAsset(t.Context(), "a"), &p)
	require.Equal(t, http.StatusNotFound, p.Status)
}

// TestSessionIsKept: what a client has written it is shown, by any region.
func TestSessionIsKept(t *testing.T) {
	var sent []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header.Get(sessionHeader))
		if r.Method == http.MethodGet {
			w.Header().Set(sessionHeader, "0/9") // a read may have been on its way for long
		} else {
			w.Header().Set(sessionHeader, "0/10")
		}
		_ = json.NewEncoder(w).Encode(Asset{ID: "a"})
	}))
	defer srv.Close()
	c := New([]string{srv.URL}, "mk_x")
	defer c.Close()
	for range 2 {
		_, err := c.Asset(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, c.DeleteAsset(t.Context(), "a"))
	}
	require.Equal(t, []string{"", "", "0/10", "0/10"}, sent)
}

func TestFollowWithoutEventsPolls(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		state := "received"
		if asked.Add(1) > 1 {
			state = "ready"
		}
		_ = json.NewEncoder(w).Encode(Asset{ID: "a", State: state})
	}))
	defer srv.Close()
	c := New([]string{srv.URL}, "mk_x")
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var states []string
	require.NoError(t, c.Follow(ctx, "a", func(a Asset) (bool, error) {
		states = append(states, a.State)
		return a.State == "ready", nil
	}))
	require.Equal(t, []string{"received", "ready"}, states)
	stop := errors.New("enough")
	require.ErrorIs(t, c.Follow(ctx, "a", func(Asset) (bool, error) { return false, stop }), stop)
}

func TestReadEvents(t *testing.T) {
	var got []ServerEvent
	err := ReadEvents(strings.NewReader("retry: 1000\n\n: hello\n\nid: 7\nevent: ready\ndata: {\ndata: }\n\ndata:1\r\n\n\nid: 8\n"), func(e ServerEvent) error {
		got = append(got, e)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, ServerEvent{}, got[0], "a comment")
	require.Equal(t, ServerEvent{ID: "7", Name: "ready", Data: json.RawMessage("{\n}")}, got[1])
	require.Equal(t, "message", got[2].Name)
}

func FuzzReadEvents(f *testing.F) {
	f.Add("id: 1\nevent: a\ndata: {}\n\n")
	f.Add("data\n\n:\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		_ = ReadEvents(strings.NewReader(s), func(e ServerEvent) error {
			if strings.Contains(e.ID+e.Name, "\n") {
				t.Fatalf("%+v", e)
			}
			return nil
		})
	})
}

func TestMemoryOfATornFileBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "v.mp4")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	info, err := os.Stat(file)
	require.NoError(t, err)
	open := func(api string) *memory {
		m, err := openMemory(filepath.Join(dir, "state"), []string{api}, file, info)
		require.NoError(t, err)
		return m
	}
	m := open("http://a")
	m.Key, m.URL = "k", "u"
	require.NoError(t, m.save())
	require.Equal(t, "u", open("http://a").URL)
	require.Empty(t, open("http://b").URL, "another API is another upload")
	require.NoError(t, os.WriteFile(m.path, []byte(`{"url":"u`), 0o600))
	require.Empty(t, open("http://a").URL)
	require.NoError(t, os.Chtimes(m.path, time.Now(), time.Now().Add(-8*24*time.Hour)))
	open("http://b")
	_, err = os.Stat(m.path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
