package token

import (
	"encoding/base64"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const asset = "abcdefghijklmnopqrstuvwxyz"

func signer(t testing.TB, dir, file string) *Signer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, file))
	require.NoError(t, err)
	s, err := ParseSigner(string(b))
	require.NoError(t, err)
	return s
}

func keys(t testing.TB) (dir string, ks *KeySet) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, GenerateSecrets(dir, []string{"eu", "us"}))
	pub, err := os.ReadFile(filepath.Join(dir, RootPublicFile))
	require.NoError(t, err)
	root, err := ParsePublic(string(pub))
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, KeySetFile))
	require.NoError(t, err)
	set, err := VerifyKeySet([]byte(strings.TrimSpace(string(b))), root)
	require.NoError(t, err)
	return dir, &set
}

func TestGenerateSecretsIsStable(t *testing.T) {
	dir, ks := keys(t)
	require.Len(t, ks.Keys, 4)
	before, err := os.ReadFile(filepath.Join(dir, KeySetFile))
	require.NoError(t, err)
	require.NoError(t, GenerateSecrets(dir, []string{"eu", "us"}))
	after, err := os.ReadFile(filepath.Join(dir, KeySetFile))
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.ErrorContains(t, GenerateSecrets(dir, []string{"eu", "us", "ap"}), `session-ap-1`)
	for _, f := range []string{RootKeyFile, SessionKeyFile("eu")} {
		st, err := os.Stat(filepath.Join(dir, f))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), st.Mode())
	}
	require.NotContains(t, signer(t, dir, RootKeyFile).String(), "seed")
}

func TestCheck(t *testing.T) {
	dir, ks := keys(t)
	now := time.Now()
	play, sess, record := signer(t, dir, PlaybackKeyFile), signer(t, dir, SessionKeyFile("eu")), signer(t, dir, RecordKeyFile)
	mint := func(c Claims, s *Signer) string {
		tok, err := Mint(c, s)
		require.NoError(t, err)
		return tok
	}
	good := Claims{Asset: asset, Expires: now.Add(time.Hour).Unix(), Rules: Rules{Geo: []string{"DE"}}}
	tok := mint(good, play)
	c, kid, err := Check(tok, asset, ks, now)
	require.NoError(t, err)
	require.Equal(t, "playback-1", kid)
	require.Equal(t, []string{"DE"}, c.Geo)

	session, sc, err := MintSession(c, kid, now.Add(6*time.Hour), sess)
	require.NoError(t, err)
	got, kid, err := Check(session, asset, ks, now.Add(2*time.Hour))
	require.NoError(t, err)
	require.Equal(t, "session-eu-1", kid)
	require.Equal(t, sc, got)
	require.True(t, got.IsSession())
	require.Equal(t, c.ID, got.ParentID)
	require.Equal(t, []string{"DE"}, got.Geo)

	revoked := *ks
	revoked.Keys = append([]Key(nil), ks.Keys...)
	for i := range revoked.Keys {
		revoked.Keys[i].Revoked = revoked.Keys[i].KID == "playback-1"
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"playback-1","typ":"JWT"}`))
	hs := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"playback-1","typ":"JWT"}`))
	parts := strings.Split(tok, ".")
	other, err := NewSigner("playback-1")
	require.NoError(t, err)
	forgedSession, err := Sign(Claims{Asset: asset, Expires: good.Expires, Audience: "session"}, sessionType, play)
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		tok  string
		ks   *KeySet
		want error
	}{
		"expired":             {mint(Claims{Asset: asset, Expires: now.Add(-time.Second).Unix()}, play), ks, ErrExpired},
		"not yet":             {mint(Claims{Asset: asset, Expires: good.Expires, NotBefore: now.Add(2 * time.Minute).Unix()}, play), ks, ErrExpired},
		"foreign asset":       {mint(Claims{Asset: strings.Repeat("b", 26), Expires: good.Expires}, play), ks, ErrForeign},
		"forged key":          {mint(good, other), ks, ErrForged},
		"wrong use":           {mint(good, record), ks, ErrUnknownKey},
		"session by playback": {string(forgedSession), ks, ErrUnknownKey},
		"alg none":            {none + "." + parts[1] + ".", ks, ErrForged},
		"alg HS256":           {hs + "." + parts[1] + "." + parts[2], ks, ErrForged},
		"changed payload":     {parts[0] + "." + parts[1] + "A." + parts[2], ks, ErrForged},
		"revoked":             {tok, &revoked, ErrRevoked},
		"revoked parent":      {session, &revoked, ErrRevoked},
		"no key set":          {tok, nil, ErrUnknownKey},
		"empty":               {"", ks, ErrForged},
		"huge":                {"a." + strings.Repeat("b", 5000), ks, ErrForged},
	} {
		_, _, err := Check(tc.tok, asset, tc.ks, now)
		require.ErrorIs(t, err, tc.want, name)
	}
}

func TestRules(t *testing.T) {
	r := Rules{Geo: []string{"DE"}, CIDR: []netip.Prefix{netip.MustParsePrefix("127.11.0.0/16")}, Origins: []string{"https://a.example"}}
	require.True(t, r.AllowsCountry("de") && !r.AllowsCountry("US") && !r.AllowsCountry(""))
	require.True(t, r.AllowsAddr(netip.MustParseAddr("127.11.0.9")) && r.AllowsAddr(netip.MustParseAddr("::ffff:127.11.0.9")) && !r.AllowsAddr(netip.MustParseAddr("127.12.0.9")))
	require.True(t, r.AllowsOrigin("https://a.example", ""))
	require.True(t, r.AllowsOrigin("null", "https://a.example/page?x"))
	require.False(t, r.AllowsOrigin("null", "https://a.example.evil/"))
	require.False(t, r.AllowsOrigin("", ""))
	require.True(t, Rules{}.AllowsOrigin("", "") && Rules{}.AllowsAddr(netip.Addr{}) && Rules{}.AllowsCountry(""))
}

func FuzzCheck(f *testing.F) {
	dir, ks := keys(f)
	tok, err := Mint(Claims{Asset: asset, Expires: time.Now().Add(time.Hour).Unix()}, signer(f, dir, PlaybackKeyFile))
	require.NoError(f, err)
	f.Add(tok)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		c, _, err := Check(s, asset, ks, time.Now())
		// Only encodings of the one signed payload may pass.
		if err == nil {
			want, _, err := Check(tok, asset, ks, time.Now())
			require.NoError(t, err)
			require.Equal(t, want, c)
		}
	})
}
