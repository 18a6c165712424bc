package main

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneQuestion(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(`{"health":"true"}`))
	}))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	for _, c := range []struct {
		args []string
		err  string
	}{
		{args: []string{s.URL}},
		{args: []string{"-contains", `"true"`, s.URL}},
		{args: []string{"-contains", `"false"`, s.URL}, err: `the answer lacks "\"false\""`},
		{args: []string{"-status", "403", s.URL}, err: "status 200, want 403"},
		{args: []string{s.URL + "/moved"}, err: "status 302, want 200"},
		{args: nil, err: "want one URL"},
		{args: []string{"-timeout", "1ns", s.URL}, err: "deadline exceeded"},
		{args: []string{"-nats", "http://127.0.0.1:1"}, err: "connection refused"},
	} {
		err := run(t.Context(), append([]string{"-ca", ca}, c.args...))
		if c.err == "" {
			require.NoError(t, err, c.args)
		} else {
			require.ErrorContains(t, err, c.err, c.args)
		}
	}
	require.ErrorContains(t, run(t.Context(), []string{"-ca", filepath.Join(t.TempDir(), "none"), s.URL}), "no such file")
}

// TestWatch follows a container from its start: the engine learns at once that it is
// healthy, and that it isn't any more, and is left alone in between.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healthy atomic.Bool
		asked := 0
		w := watch{timeout: time.Second, stay: time.Minute, told: filepath.Join(t.TempDir(), "told"), soon: 250 * time.Millisecond, later: 2 * time.Second,
			check: func(context.Context) error {
				if asked++; !healthy.Load() {
					return errors.New("not ready")
				}
				return nil
			}}
		took := func(want time.Duration, healthy bool) {
			t.Helper()
			begun := time.Now()
			err := w.run(t.Context())
			require.Equal(t, healthy, err == nil, err)
			require.Equal(t, want, time.Since(begun))
		}
		took(time.Minute+250*time.Millisecond, false)
		time.AfterFunc(19900*time.Millisecond, func() { healthy.Store(true) })
		took(20*time.Second, true)
		asked = 0
		took(62*time.Second, true)
		require.Equal(t, 32, asked)
		time.AfterFunc(9*time.Second, func() { healthy.Store(false) })
		time.AfterFunc(11*time.Second, func() { healthy.Store(true) })
		took(62*time.Second, true) // one failed question is none
		time.AfterFunc(9*time.Second, func() { healthy.Store(false) })
		took(14*time.Second, false)
		healthy.Store(true)
		took(0, true)

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		require.NoError(t, w.run(ctx), "it is asked to end while all is well")
	})
}

// TestWatchWithoutAPlace is an error: each check would believe that it is the first.
func TestWatchWithoutAPlace(t *testing.T) {
	w := watch{check: func(context.Context) error { return nil }, timeout: time.Second, stay: time.Minute, told: filepath.Join(t.TempDir(), "none", "told")}
	require.Error(t, w.run(t.Context()))
}
