package main

import (
	"archive/tar"
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDebianPackages(t *testing.T) {
	got, err := debianPackages("ffmpeg 7:5.1.9-0+deb12u1 amd64\n")
	require.NoError(t, err)
	require.Equal(t, []Component{{Type: "library", Name: "ffmpeg", Version: "7:5.1.9-0+deb12u1", PURL: "pkg:deb/debian/ffmpeg@7:5.1.9-0+deb12u1?arch=amd64"}}, got)
	_, err = debianPackages("ffmpeg\n")
	require.ErrorContains(t, err, "want name, version")
}

// This test's own program is a Go program.
func TestGoModules(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	b, err := os.ReadFile(exe)
	require.NoError(t, err)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range map[string][]byte{"bin/program": b, "bin/script": []byte("#!/bin/sh\n")} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	got, err := goModules(&archive)
	require.NoError(t, err)
	names := []string{}
	for _, c := range got {
		names = append(names, c.Name)
	}
	require.Contains(t, names, "stdlib")
	require.Contains(t, names, "github.com/meridian-video/meridian")
}
