package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
)

// A region whose disk was lost finds its place in etcd again.
func TestEtcdOfALostDisk(t *testing.T) {
	dir := stateDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "logs"), 0o755))
	table, err := (&Command{Regions: []string{"eu", "us", "ap"}, Network: freeNetwork(t)}).table()
	require.NoError(t, err)
	p := &plan{table: table, state: &state{dir: dir}, secrets: &secrets{}}
	sup := supervisor(t, dir)
	start := func(r region.Region) *supervise.Process {
		spec, err := p.etcd(r)
		require.NoError(t, err)
		spec.Log = p.log(r, spec.Name)
		proc, err := sup.Group(r.Name).Start(spec)
		require.NoError(t, err)
		return proc
	}
	ready := func(all ...*supervise.Process) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, proc := range all {
			require.NoError(t, proc.WaitReady(ctx))
		}
	}
	// named lists the members as one of them tells.
	named := func(ask region.Region) (names []string) {
		var list struct{ Members []struct{ Name string } }
		require.NoError(t, askEtcd(t.Context(), etcdClient(ask)+"/v3/cluster/member/list", obj{}, &list))
		for _, m := range list.Members {
			names = append(names, m.Name)
		}
		return names
	}
	put := func(through region.Region, key string) {
		until(t, 10*time.Second, func(ctx context.Context) error {
			return askEtcd(ctx, etcdClient(through)+"/v3/kv/put", obj{"key": []byte(key), "value": []byte("kept")}, nil)
		})
	}
	eu, us, ap := table.Regions[0], table.Regions[1], table.Regions[2]
	ready(start(eu), start(us), start(ap))
	put(eu, "before")
	data := filepath.Join(dir, us.Name, procPostgres, "data")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("15\n"), 0o600))

	for i, lost := range []region.Region{eu, ap} {
		require.NoError(t, sup.Group(lost.Name).Kill())
		put(us, fmt.Sprint("meanwhile ", i))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, lost.Name)))
		ready(start(lost))
		require.ElementsMatch(t, []string{"eu", "us", "ap"}, named(us))
		for _, key := range []string{"before", fmt.Sprint("meanwhile ", i)} {
			var found struct{ Count string }
			until(t, 10*time.Second, func(ctx context.Context) error {
				return askEtcd(ctx, etcdClient(lost)+"/v3/kv/range", obj{"key": []byte(key)}, &found)
			})
			require.Equal(t, "1", found.Count, key)
		}
		// With its data it is a member like all others.
		require.NoError(t, sup.Group(lost.Name).Kill())
		ready(start(lost))
	}
	// The majority is theirs again: another can be lost.
	require.NoError(t, sup.Group(us.Name).Kill())
	put(eu, "after")
}

// A start that was cut short has formed nothing yet.
func TestEtcdBeforeItIsFormed(t *testing.T) {
	dir := t.TempDir()
	table, err := region.Loopback()
	require.NoError(t, err)
	p := &plan{table: table, state: &state{dir: dir}, secrets: &secrets{}}
	lost := func() bool {
		lost, err := p.lostEtcd(table.Regions[0])
		require.NoError(t, err)
		return lost
	}
	require.False(t, lost())
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "us", procEtcd, "member"), 0o700))
	require.False(t, lost(), "there is no database yet")
	data := filepath.Join(dir, "us", procPostgres, "data")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("15\n"), 0o600))
	require.True(t, lost())
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "eu", procEtcd, "member"), 0o700))
	require.False(t, lost())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "eu")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "us", procEtcd)))
	require.False(t, lost(), "all are gone: a new cluster")
}
