package creators_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// studio runs uploads on a fake platform until there are two.
func studio(t *testing.T, d drilltest.Defects) *creators.Studio {
	t.Helper()
	p, err := drilltest.Start(d)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	desc, err := p.Describe(t.Context())
	require.NoError(t, err)
	apis := map[string]string{}
	for _, r := range desc.Table.Regions {
		apis[r.Name] = r.API
	}
	dir := t.TempDir()
	template := filepath.Join(dir, "t.mp4")
	require.NoError(t, os.WriteFile(template, []byte("video"), 0o600))
	s := creators.New(creators.Config{APIs: apis, Key: "k", Template: template, Dir: dir, Near: []string{"us"},
		Order: func(near string) []string { return []string{near, "eu"} }, Pause: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	acked := func() (n int) {
		for _, u := range s.Uploads() {
			if u.Acknowledged() {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return acked() >= 2 }, time.Minute, 10*time.Millisecond)
	cancel()
	<-done
	return s
}

func TestUploadsBecomeReady(t *testing.T) {
	s := studio(t, drilltest.Defects{})
	require.NoError(t, s.Look(t.Context()))
	for _, u := range s.Uploads() {
		require.Empty(t, u.Err)
		require.True(t, u.Acknowledged(), "what has begun ends")
		require.False(t, u.Ready.IsZero())
		require.Equal(t, "us", u.Near)
	}
	require.NoError(t, s.Clean(t.Context()))
	require.NoError(t, s.Clean(t.Context()), "what is gone is clean")
}

func TestLostUploadsAreSeen(t *testing.T) {
	s := studio(t, drilltest.Defects{Forgets: true})
	require.NoError(t, s.Look(t.Context()))
	require.Equal(t, "gone", s.Uploads()[0].State)
	require.NotEmpty(t, s.Uploads()[0].Failure)
	s = studio(t, drilltest.Defects{Sticks: true})
	require.ErrorIs(t, s.Look(t.Context()), creators.ErrNotReady)
}

// TestWritersRememberWhatWasBeforeAFailure: that later writes are kept proves
// nothing for those before.
func TestWritersRememberWhatWasBeforeAFailure(t *testing.T) {
	for _, rollsBack := range []bool{false, true} {
		p, err := drilltest.Start(drilltest.Defects{ReadOnly: true, RollsBack: rollsBack})
		require.NoError(t, err)
		d, err := p.Describe(t.Context())
		require.NoError(t, err)
		api := d.Table.Regions[0].API
		w, err := creators.NewWriter(t.Context(), "eu", api, "k")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		acked := func(n int) func() bool {
			return func() bool {
				list := w.Writes()
				return len(list) >= n && list[len(list)-1].OK()
			}
		}
		require.Eventually(t, acked(2), time.Minute, 10*time.Millisecond)
		ap := target.Fault{Step: scenario.Step{Fault: scenario.Kill}, Region: "ap"}
		require.NoError(t, p.Apply(t.Context(), ap))
		require.Eventually(t, func() bool { return !acked(1)() }, time.Minute, 10*time.Millisecond)
		require.NoError(t, p.Heal(t.Context(), ap))
		require.Eventually(t, acked(5), time.Minute, 10*time.Millisecond)
		cancel()
		<-done
		if err := w.Check(t.Context(), api); rollsBack {
			require.ErrorIs(t, err, creators.ErrLost)
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, w.Clean(t.Context(), []string{api}))
		require.NoError(t, p.Close())
	}
}

func TestWriters(t *testing.T) {
	for _, loses := range []bool{false, true} {
		p, err := drilltest.Start(drilltest.Defects{LosesTitles: loses})
		require.NoError(t, err)
		d, err := p.Describe(t.Context())
		require.NoError(t, err)
		api := d.Table.Regions[0].API
		w, err := creators.NewWriter(t.Context(), "eu", api, "k")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		require.Eventually(t, func() bool { return len(w.Writes()) >= 2 }, time.Minute, 10*time.Millisecond)
		cancel()
		<-done
		for _, x := range w.Writes() {
			require.True(t, x.OK(), "%+v", x)
		}
		if err := w.Check(t.Context(), api); loses {
			require.ErrorIs(t, err, creators.ErrLost)
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, w.Clean(t.Context(), []string{api}))
		require.ErrorIs(t, w.Check(t.Context(), api), creators.ErrLost, "a deleted asset is a lost one")
		require.NoError(t, p.Close())
	}
}
