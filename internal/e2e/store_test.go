package e2e

import (
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/service"
)

func itoa(n int) string { return strconv.Itoa(n) }

// storeFrom opens the object store a process of the platform uses.
func storeFrom(t *testing.T, p stack.Process) *objects.Store {
	t.Helper()
	env := func(name, fallback string) string {
		for _, e := range p.Env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return fallback
	}
	secret := func(name string) service.Secret {
		var s service.Secret
		require.NoError(t, s.UnmarshalText([]byte(env(name, ""))))
		return s
	}
	s, err := objects.New(platform.Table, platform.region().Name, objects.Config{
		AccessKey: secret("MERIDIAN_S3_ACCESS_KEY"), SecretKey: secret("MERIDIAN_S3_SECRET_KEY"), Bucket: env("MERIDIAN_S3_BUCKET", "meridian"),
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return s
}

// requireSameSource compares the parts of an asset's source, joined, with a file.
func requireSameSource(t *testing.T, asset, file string) {
	t.Helper()
	s := store(t)
	joined := sha256.New()
	err := s.Own().List(t.Context(), objects.SourcePrefix(asset), "", func(i objects.Info) bool {
		r, _, err := s.Own().Get(t.Context(), i.Key, 0, -1)
		require.NoError(t, err)
		_, err = io.Copy(joined, r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		return true
	})
	require.NoError(t, err)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	want := sha256.New()
	_, err = io.Copy(want, f)
	require.NoError(t, err)
	require.Equal(t, want.Sum(nil), joined.Sum(nil))
}

// firstSegment is the URL of an asset's first video segment at an edge.
func firstSegment(t *testing.T, asset string) string {
	t.Helper()
	_, header, _ := get(t, platform.region().Router.URL+"/v/-/"+asset+"/master.m3u8")
	_, _, body := get(t, header.Get("Location"))
	info, err := hls.CheckMaster(body)
	require.NoError(t, err)
	_, _, body = get(t, info.Variants[0].URI)
	media, err := hls.CheckMedia(body)
	require.NoError(t, err)
	return strings.TrimSuffix(info.Variants[0].URI, "index.m3u8") + media.Segments[0].URI
}
