package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Asking for disks where they can't be leaves nothing behind: the state is used as before.
func TestDisksWhereThereIsState(t *testing.T) {
	st := &state{dir: t.TempDir()}
	file := filepath.Join(st.dir, "us", procMinIO)
	require.NoError(t, os.MkdirAll(file, 0o700))
	_, err := mountDisks(st, []string{"eu", "us"}, leastDisk)
	require.ErrorContains(t, err, "disk of us: "+filepath.Join(st.dir, "us")+" holds files")
	require.NotContains(t, err.Error(), "no such file")
	require.False(t, haveDisks(st), "it starts without")
	require.NoError(t, os.MkdirAll(st.path(diskDir), 0o755))
	require.False(t, haveDisks(st), "also where an earlier version left the directory")
}

func TestDiskThatIsGone(t *testing.T) {
	st := &state{dir: t.TempDir()}
	require.NoError(t, os.MkdirAll(st.path(diskDir), 0o755))
	require.NoError(t, os.WriteFile(st.path(diskDir, "eu"), nil, 0o600))
	require.True(t, haveDisks(st))
	_, err := mountDisks(st, []string{"eu", "us"}, 0)
	require.ErrorContains(t, err, st.path(diskDir, "us")+" is gone: bring it back, or start with --region-disk")
	require.NoFileExists(t, st.path(diskDir, "us"))
}

func TestMountsOfAnEarlierRun(t *testing.T) {
	const text = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
31 22 7:0 / /srv/our\040films/state/eu rw - ext4 /dev/loop0 rw
32 22 7:1 / /srv/our\040films/state\0402/eu rw - ext4 /dev/loop1 rw
33 22 7:2 / /srv/our\040films/state/us rw - ext4 /dev/loop2 rw
`
	left, err := mountedBelow(strings.NewReader(text), "/srv/our films/state")
	require.NoError(t, err)
	require.Equal(t, []string{"/srv/our films/state/eu", "/srv/our films/state/us"}, left)
}
