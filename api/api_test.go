package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

type assetJSON struct {
	ID, Title, State, Visibility string
	UploadURL                    string `json:"upload_url"`
	Failure                      *catalog.Failure
	Placement                    struct {
		Mode   string
		Copies int
	}
	Playback struct {
		Watch  string
		Master *string
	}
	Progress *struct {
		Upload float64
	}
}

// TestAPI runs all that needs servers on one platform, each test as an owner of its own.
func TestAPI(t *testing.T) {
	pl := newPlatform(t)
	p := pl.start()
	for _, x := range []struct {
		name string
		test func(*testing.T, *platform, *process)
	}{
		{"keys", testKeys}, {"assets", testAssets}, {"pages", testPages}, {"openapi", testOpenAPI}, {"upload whole", testUploadWhole},
		{"upload with creation", testUploadWithCreation}, {"upload cut half-way", testUploadCut}, {"two writers", testTwoWriters},
		{"upload refused", testUploadRefused}, {"upload idempotent", testUploadIdempotent}, {"upload pinned", testUploadPinned},
		{"events", testEvents}, {"event streams", testEventStreams}, {"stopping", testStopping}, {"client", testClient},
	} {
		t.Run(x.name, func(t *testing.T) { x.test(t, pl.with(t), p.by(t)) })
	}
}

func testKeys(t *testing.T, _ *platform, p *process) {
	for name, kv := range map[string][]string{
		"missing": nil, "wrong": {"Authorization", "Bearer mk_wrongwrongwrongwrongwrongwrong"}, "other scheme": {"Authorization", "Basic bWs6"},
		"short": {"Authorization", "Bearer mk_"}, "long": {"Authorization", "Bearer mk_" + strings.Repeat("a", 5000)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/v1/assets", "/v1/api-keys", "/v1/events", "/v1/assets/" + catalog.NewID() + "/events"} {
				a := p.as("").do("GET", path, nil, kv...)
				require.Equal(t, "unauthorized", a.code(t))
				require.Equal(t, 401, a.StatusCode)
				require.Equal(t, `Bearer realm="meridian"`, a.Header.Get("WWW-Authenticate"))
			}
			a := p.as("").do("PATCH", "/v1/uploads/"+catalog.NewID(), "x", append([]string{"Tus-Resumable", "1.0.0"}, kv...)...)
			require.Equal(t, 401, a.StatusCode)
		})
	}

	a := p.do("POST", "/v1/api-keys", map[string]any{"name": "reader", "role": "read"})
	require.Equal(t, 201, a.StatusCode)
	var made struct{ ID, Key string }
	a.json(t, &made)
	reader := p.as(made.Key)
	require.Equal(t, 200, reader.do("GET", "/v1/assets", nil).StatusCode)
	require.Equal(t, "forbidden", reader.do("POST", "/v1/assets", map[string]any{}).code(t))
	require.Equal(t, "forbidden", reader.do("GET", "/v1/api-keys", nil).code(t))
	require.NotContains(t, string(p.do("GET", "/v1/api-keys", nil).body), made.Key)

	require.Equal(t, 204, p.do("DELETE", "/v1/api-keys/"+made.ID, nil).StatusCode)
	require.Equal(t, "unauthorized", reader.do("GET", "/v1/assets", nil).code(t), "revoked here is revoked at once")
	require.Equal(t, "not-found", p.do("DELETE", "/v1/api-keys/"+catalog.NewID(), nil).code(t))
	require.Equal(t, "invalid-field", p.do("POST", "/v1/api-keys", map[string]any{"name": "", "role": "root"}).code(t))
}

func testAssets(t *testing.T, pl *platform, p *process) {
	create := func(body any, kv ...string) assetJSON {
		t.Helper()
		a := p.do("POST", "/v1/assets", body, kv...)
		require.Equal(t, 201, a.StatusCode, string(a.body))
		var out assetJSON
		a.json(t, &out)
		require.True(t, strings.HasSuffix(a.Header.Get("Location"), "/v1/assets/"+out.ID))
		require.NotEmpty(t, a.Header.Get("Meridian-Session"))
		return out
	}
	one := create(map[string]any{"title": " Ein Film ", "visibility": "private"}, "Idempotency-Key", "k1")
	require.Equal(t, "Ein Film", one.Title)
	require.Equal(t, "waiting", one.State)
	require.Nil(t, one.Playback.Master, "a private asset has no URL without a token")
	require.Contains(t, one.UploadURL, p.URL+"/v1/uploads?asset="+one.ID)
	require.Equal(t, 2, one.Placement.Copies)

	again := create(map[string]any{"title": "Ein Film", "visibility": "private"}, "Idempotency-Key", "k1")
	require.Equal(t, one.ID, again.ID)
	require.Equal(t, "idempotency-key-reused", p.do("POST", "/v1/assets", map[string]any{"title": "other"}, "Idempotency-Key", "k1").code(t))

	pinned := create(map[string]any{"placement": map[string]any{"mode": "pinned", "regions": []string{"us"}}})
	require.Equal(t, 1, pinned.Placement.Copies, "the API says that there is one copy")
	for range 3 {
		create(nil)
	}

	t.Run("list", func(t *testing.T) {
		seen := map[string]bool{}
		path := "/v1/assets?limit=2&state=waiting"
		for pages := 0; path != ""; pages++ {
			require.Less(t, pages, 4)
			a := p.do("GET", path, nil)
			var page struct {
				Assets     []assetJSON
				NextCursor *string `json:"next_cursor"`
			}
			a.json(t, &page)
			for _, x := range page.Assets {
				require.False(t, seen[x.ID])
				seen[x.ID] = true
			}
			path = ""
			if page.NextCursor != nil {
				link := a.Header.Get("Link")
				path = strings.TrimPrefix(link[1:strings.Index(link, ">")], p.URL)
			}
		}
		require.Len(t, seen, 5)
		require.Equal(t, "invalid-field", p.do("GET", "/v1/assets?cursor=zzz", nil).code(t))
		require.Equal(t, "invalid-field", p.do("GET", "/v1/assets?limit=0&state=gone", nil).code(t))
	})
	t.Run("change", func(t *testing.T) {
		a := p.do("PATCH", "/v1/assets/"+one.ID, map[string]any{"title": "New", "visibility": "unlisted"})
		var out assetJSON
		a.json(t, &out)
		require.Equal(t, "New", out.Title)
		require.NotNil(t, out.Playback.Master)
		b := p.do("GET", "/v1/assets/"+one.ID, nil, "Meridian-Session", a.Header.Get("Meridian-Session"))
		b.json(t, &out)
		require.Equal(t, "New", out.Title)
		for _, bad := range []any{map[string]any{}, map[string]any{"title": " "}, map[string]any{"visibility": "secret"}} {
			require.Equal(t, "invalid-field", p.do("PATCH", "/v1/assets/"+one.ID, bad).code(t))
		}
	})
	t.Run("refused", func(t *testing.T) {
		for name, x := range map[string]struct {
			body any
			kv   []string
			code string
		}{
			"not JSON":       {`{"title":`, []string{"Content-Type", "application/json"}, "invalid-request"},
			"unknown field":  {map[string]any{"titel": "x"}, nil, "invalid-request"},
			"two values":     {`{} {}`, []string{"Content-Type", "application/json"}, "invalid-request"},
			"media type":     {`title=x`, []string{"Content-Type", "application/x-www-form-urlencoded"}, "unsupported-media-type"},
			"too large":      {map[string]any{"title": strings.Repeat("x", 70_000)}, nil, "body-too-large"},
			"long title":     {map[string]any{"title": strings.Repeat("x", 501)}, nil, "invalid-field"},
			"visibility":     {map[string]any{"visibility": "x"}, nil, "invalid-field"},
			"no such region": {map[string]any{"placement": map[string]any{"mode": "pinned", "regions": []string{"mars"}}}, nil, "invalid-field"},
			"key":            {map[string]any{}, []string{"Idempotency-Key", strings.Repeat("k", 256)}, "invalid-field"},
		} {
			t.Run(name, func(t *testing.T) {
				require.Equal(t, x.code, p.do("POST", "/v1/assets", x.body, x.kv...).code(t))
			})
		}
		require.Equal(t, "not-found", p.do("GET", "/v1/nothing", nil).code(t))
		require.Equal(t, "method-not-allowed", p.do("PUT", "/v1/assets", nil).code(t))
		require.Equal(t, "not-found", p.do("GET", "/v1/assets/..%2f..%2fetc", nil).code(t))
	})
	t.Run("others'", func(t *testing.T) {
		other := p.by(t)
		require.Equal(t, "not-found", other.do("GET", "/v1/assets/"+one.ID, nil).code(t))
		require.Equal(t, "not-found", other.do("PATCH", "/v1/assets/"+one.ID, map[string]any{"title": "mine"}).code(t))
		require.Equal(t, "not-found", other.do("DELETE", "/v1/assets/"+one.ID, nil).code(t))
		require.Equal(t, "not-found", other.do("POST", "/v1/assets/"+one.ID+"/tokens", map[string]any{}).code(t))
		require.Equal(t, "not-found", other.do("GET", "/v1/assets/"+one.ID+"/events", nil).code(t))
		require.Equal(t, "not-found", other.do("POST", "/v1/uploads?asset="+one.ID, nil, "Tus-Resumable", "1.0.0", "Upload-Length", "5").code(t))
	})
	t.Run("token", func(t *testing.T) {
		a := p.do("POST", "/v1/assets/"+one.ID+"/tokens", map[string]any{"expires_in": 60, "geo": []string{"de"}, "cidr": []string{"192.0.2.7/24"}, "origins": []string{"https://example.org"}})
		require.Equal(t, 201, a.StatusCode)
		var out struct{ Token, Master, Watch string }
		a.json(t, &out)
		b, err := journal.Read(t.Context(), pl.store, objects.KeysJournal, 1)
		require.NoError(t, err, "the first key set is published")
		root, err := token.ParsePublic(pl.cmd.RootPublicKey.Reveal())
		require.NoError(t, err)
		ks, err := token.VerifyKeySet(b, root)
		require.NoError(t, err)
		claims, _, err := token.Check(out.Token, one.ID, &ks, time.Now())
		require.NoError(t, err)
		require.Equal(t, []string{"DE"}, claims.Geo)
		require.Equal(t, "192.0.2.0/24", claims.CIDR[0].String())
		require.Contains(t, out.Master, "/v/"+out.Token+"/"+one.ID+"/master.m3u8")
		require.True(t, strings.HasSuffix(out.Watch, "/watch/"+one.ID+"?t="+out.Token), out.Watch)
		for _, bad := range []map[string]any{{"expires_in": 0}, {"expires_in": 1 << 40}, {"geo": []string{"Germany"}}, {"cidr": []string{"x"}}, {"origins": []string{"example.org/x"}}} {
			require.Equal(t, "invalid-field", p.do("POST", "/v1/assets/"+one.ID+"/tokens", bad).code(t))
		}
	})
	t.Run("revoke", func(t *testing.T) {
		var made struct{ ID, Token string }
		p.do("POST", "/v1/assets/"+one.ID+"/tokens", map[string]any{}).json(t, &made)
		path := "/v1/assets/" + one.ID + "/tokens/"
		require.Equal(t, "not-found", p.by(t).do("DELETE", path+made.ID, nil).code(t))
		require.Equal(t, "invalid-field", p.do("DELETE", path+strings.Repeat("x", 129), nil).code(t))
		require.Equal(t, "invalid-field", p.do("DELETE", path+"a%2fb", nil).code(t))
		require.Equal(t, 204, p.do("DELETE", path+made.ID, nil).StatusCode)
		require.Equal(t, 204, p.do("DELETE", path+made.ID, nil).StatusCode, "again")
		require.Eventually(t, func() bool {
			n, err := journal.Newest(t.Context(), pl.store, objects.PurgesJournal)
			if err != nil {
				return false
			}
			b, err := journal.Read(t.Context(), pl.store, objects.PurgesJournal, n)
			require.NoError(t, err)
			keys, err := journal.Read(t.Context(), pl.store, objects.KeysJournal, 1)
			require.NoError(t, err)
			root, err := token.ParsePublic(pl.cmd.RootPublicKey.Reveal())
			require.NoError(t, err)
			ks, err := token.VerifyKeySet(keys, root)
			require.NoError(t, err)
			purge, err := journal.VerifyPurge(b, &ks, time.Now())
			require.NoError(t, err)
			return slices.Contains(purge.JTIs, journal.TokenName(one.ID, made.ID))
		}, 15*time.Second, 50*time.Millisecond, "the purges journal tells edges")
	})
	t.Run("runs", func(t *testing.T) {
		path := "/v1/assets/" + one.ID + "/runs"
		var list struct {
			Runs []struct {
				Run, State, Profile string
				Current             bool
			}
		}
		a := p.do("GET", path, nil)
		require.Equal(t, 200, a.StatusCode)
		a.json(t, &list)
		require.Empty(t, list.Runs)
		require.Equal(t, "wrong-state", p.do("POST", path, map[string]any{}).code(t), "it isn't ready")
		require.Equal(t, "invalid-field", p.do("POST", path, map[string]any{"profile": "No Such"}).code(t))
		require.Equal(t, "not-found", p.by(t).do("POST", path, map[string]any{}).code(t))
		require.Equal(t, "not-found", p.by(t).do("GET", path, nil).code(t))
		for _, run := range []string{"r2", "2", "r0", "rx"} {
			require.Equal(t, "not-found", p.do("DELETE", path+"/"+run, nil).code(t), run)
		}
	})
	t.Run("delete", func(t *testing.T) {
		require.Equal(t, 204, p.do("DELETE", "/v1/assets/"+one.ID, nil).StatusCode)
		require.Equal(t, "not-found", p.do("GET", "/v1/assets/"+one.ID, nil).code(t))
		require.Equal(t, "not-found", p.do("DELETE", "/v1/assets/"+one.ID, nil).code(t))
	})
}

func testPages(t *testing.T, _ *platform, p *process) {
	p = p.as("")
	require.Contains(t, string(p.do("GET", "/", nil).body), `"region":"eu"`)
	require.Contains(t, string(p.do("GET", "/openapi.yaml", nil).body), "openapi: 3.1.0")
	for _, k := range problem.Kinds() {
		a := p.do("GET", "/problems/"+k.Code, nil)
		require.Equal(t, 200, a.StatusCode)
		require.NotEmpty(t, k.Help)
	}
	require.Equal(t, "not-found", p.do("GET", "/problems/none", nil).code(t))

	a := p.do("OPTIONS", "/v1/assets", nil, "Origin", "https://studio.example", "Access-Control-Request-Method", "POST")
	require.Equal(t, 204, a.StatusCode)
	require.Equal(t, "*", a.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, a.Header.Get("Access-Control-Allow-Headers"), "Upload-Offset")
	a = p.do("GET", "/v1/assets", nil, "Origin", "https://studio.example", "X-Request-ID", "client-id-1")
	require.Contains(t, a.Header.Get("Access-Control-Expose-Headers"), "Upload-Expires")
	require.Equal(t, "client-id-1", a.Header.Get("X-Request-ID"))
}

func TestUnknownErrorsStayInside(t *testing.T) {
	p := problem.From(errors.New("secret of the inside"))
	require.Equal(t, http.StatusInternalServerError, p.Kind.Status)
	require.NotContains(t, string(p.Body("id")), "secret")
	seen := map[string]bool{}
	for _, k := range problem.Kinds() {
		require.False(t, seen[k.Code], k.Code)
		seen[k.Code] = true
	}
}
