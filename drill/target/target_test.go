package target

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/platform"
	"github.com/meridian-video/meridian/internal/region"
)

func TestResolve(t *testing.T) {
	table, err := region.Loopback()
	require.NoError(t, err)
	d := &Description{Table: table, Leader: func(context.Context) (string, error) { return "us", nil }}
	for on, want := range map[string]string{"eu": "eu", scenario.First: "eu", scenario.Second: "us", scenario.Third: "ap", scenario.Leader: "us", scenario.Follower: "eu"} {
		f, err := d.Resolve(t.Context(), scenario.Step{Fault: scenario.Kill, On: on, Wipe: true})
		require.NoError(t, err)
		require.Equal(t, Fault{Step: scenario.Step{Fault: scenario.Kill, Wipe: true}, Region: want}, f)
	}
	_, err = d.Resolve(t.Context(), scenario.Step{On: "mars"})
	require.ErrorContains(t, err, "want one of [eu us ap], leader")
	one, err := region.Loopback("eu")
	require.NoError(t, err)
	d.Table = one
	_, err = d.Resolve(t.Context(), scenario.Step{On: scenario.Third})
	require.ErrorContains(t, err, "has 1 regions")
	d.Leader = func(context.Context) (string, error) { return "", errors.New("nobody leads") }
	_, err = d.Resolve(t.Context(), scenario.Step{On: scenario.Leader})
	require.ErrorContains(t, err, "nobody leads")
}

func TestHits(t *testing.T) {
	table, err := region.Loopback()
	require.NoError(t, err)
	for process, want := range map[string][]string{"": {"us-1", "us-2"}, "edge-2": {"us-2"}, "us-1": {"us-1"}, "geodns": nil} {
		require.Equal(t, want, Fault{Step: scenario.Step{Process: process}, Region: "us"}.Hits(table), process)
	}
	for _, worse := range []scenario.Fault{scenario.Slow, scenario.Fill} {
		f := Fault{Step: scenario.Step{Fault: worse}, Region: "us"}
		require.Empty(t, f.Hits(table), "what is worse is still there")
		require.False(t, f.TakesRegion(table))
	}
	require.Nil(t, Fault{Region: "mars"}.Hits(table))
	require.False(t, Fault{Region: "mars"}.TakesRegion(table))
	require.True(t, Fault{Region: "us"}.TakesRegion(table))
	require.False(t, Fault{Region: "us", Step: scenario.Step{Process: "edge-1"}}.TakesRegion(table))
	require.Equal(t, "silence us (in)", Fault{Step: scenario.Step{Fault: scenario.Silence, Direction: scenario.In}, Region: "us"}.String())
}

func TestSourcesAreNearTheirRegion(t *testing.T) {
	loopback, err := region.Loopback()
	require.NoError(t, err)
	isolated, err := region.Isolated()
	require.NoError(t, err)
	require.Equal(t, "127.12.0.2", sources(loopback.Regions[1], false, 1)[0].String())
	list := sources(isolated.Regions[1], true, 1)
	require.Equal(t, "198.18.12.2", list[0].String())
	require.Len(t, list, sourcesEach)
	require.Equal(t, "198.18.12.251", list[sourcesEach-1].String())
}

func TestNoPlatform(t *testing.T) {
	_, err := OpenPlatform(t.Context(), t.TempDir())
	require.ErrorIs(t, err, &platform.Error{Code: platform.NotRunning})
	require.ErrorContains(t, err, "meridian up")
}

func TestReports(t *testing.T) {
	r, ok := parseReport([]byte(`{"assets":3,"lost":1,"regions":[{"region":"eu","reached":true}]}`))
	require.True(t, ok)
	require.EqualValues(t, 1, r.Lost)
	for _, bad := range []string{"", "nothing", "{}"} {
		_, ok := parseReport([]byte(bad))
		require.False(t, ok, "%q is no report, not a good one", bad)
	}
}

func TestContainersAreKnownByTheirLabels(t *testing.T) {
	var list []container
	require.NoError(t, json.Unmarshal([]byte(`[
		{"Id": "a", "Name": "/meridian-edge-eu-2-1", "State": {"Status": "running", "Health": {"Status": "healthy"}},
		 "Config": {"Labels": {"video.meridian.region": "eu", "video.meridian.component": "edge-cache"}}},
		{"Id": "b", "Name": "/meridian-minio-eu-1", "State": {"Status": "running", "Paused": true},
		 "Config": {"Labels": {"video.meridian.region": "eu", "video.meridian.component": "minio"}}},
		{"Id": "c", "Name": "/meridian-api-eu-1", "State": {"Status": "running", "Health": {"Status": "starting"}},
		 "Config": {"Labels": {"video.meridian.region": "eu", "video.meridian.component": "api"}}},
		{"Id": "d", "Name": "/meridian-nats-us-1", "State": {"Status": "exited"},
		 "Config": {"Labels": {"video.meridian.region": "us", "video.meridian.component": "nats"}}}]`), &list))
	for i, process := range []string{"edge-2", "minio", "api", "nats"} {
		for k, x := range list {
			require.Equal(t, k == i, x.is(process), "%s is %s", x.Name, process)
		}
	}
	require.False(t, list[0].is("edge-1"))
	require.NoError(t, list[0].well())
	require.EqualError(t, list[1].well(), "meridian-minio-eu-1 is paused")
	require.EqualError(t, list[2].well(), "meridian-api-eu-1 is starting")
	require.EqualError(t, list[3].well(), "meridian-nats-us-1 is exited")
	require.Equal(t, "us", list[3].region())
}
