package upload

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/tus/tusd/v2/pkg/handler"
)

func TestPartsGrow(t *testing.T) {
	u := &source{store: &store{cfg: Config{PartBytes: 32 << 20}}}
	for part, want := range []int64{8 << 20, 16 << 20, 32 << 20, 32 << 20} {
		require.Equal(t, want, u.partSize(part))
	}
	u.cfg.PartBytes = 100_000
	require.EqualValues(t, 100_000, u.partSize(0))
	u.cfg.PartBytes = 20 << 20
	require.EqualValues(t, 20<<20, u.partSize(1<<20))
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 1000)
	never := func() bool { return false }
	s, err := newSpool(dir)
	require.NoError(t, err)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "a spool has no name")
	src := iotest.HalfReader(bytes.NewReader(content))
	end, err := s.fill(src, 6000, make([]byte, 512), never)
	require.NoError(t, err)
	require.False(t, end)
	body := s.body()
	require.EqualValues(t, 6000, body.Size)
	require.Equal(t, sha256.Sum256(content[:6000]), body.SHA256)
	got := make([]byte, 6000)
	_, err = body.R.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, content[:6000], got)
	require.NoError(t, s.close())

	s, err = newSpool(dir)
	require.NoError(t, err)
	end, err = s.fill(src, 6000, make([]byte, 512), never)
	require.NoError(t, err)
	require.True(t, end)
	require.EqualValues(t, 4000, s.size)
	end, err = s.fill(iotest.ErrReader(io.ErrClosedPipe), 6000, make([]byte, 512), never)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.True(t, end)
	require.NoError(t, s.close())
}

func TestTitles(t *testing.T) {
	for name, want := range map[string]string{"clip.mp4": "clip", "a.b.mkv": "a.b", ".mp4": ".mp4", "": "Untitled", "x": "x"} {
		require.Equal(t, want, TitleOf(name))
	}
	for name, want := range map[string]string{`C:\v\a.mp4`: "a.mp4", "../../etc/passwd": "passwd", "..": "", "a\x00\nb": "ab"} {
		require.Equal(t, want, cleanName(name))
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add("filename Y2xpcC5tcDQ=,title YQ==")
	f.Add("x")
	f.Add(" , ")
	f.Fuzz(func(t *testing.T, header string) {
		if checkMetadata(header) != nil {
			return
		}
		m := handler.ParseMetadataHeader(header)
		if strings.TrimSpace(header) != "" && len(m) != strings.Count(header, ",")+1 {
			t.Fatalf("%q was accepted and read in part: %v", header, m)
		}
		got, err := parseMetadata(m)
		if err != nil {
			return
		}
		if got.title == "" || utf8.RuneCountInString(got.title) > MaxTitle || strings.ContainsAny(got.filename, "/\\\x00\n") || !utf8.ValidString(got.title) {
			t.Fatalf("%q: %+v", header, got)
		}
	})
}
