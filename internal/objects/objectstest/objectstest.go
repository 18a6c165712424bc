// Package objectstest gives tests a store over real object servers.
package objectstest

import (
	"context"
	"log/slog"
	"testing"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
)

var names = []string{"eu", "us", "ap"}

// New returns a store of region eu over n regions (eu, us, ap in this order),
// with its buckets made, and the region table that leads there.
func New(t testing.TB, n int) (*objects.Store, *region.Table) {
	t.Helper()
	return Over(t, testenv.S3(t, n))
}

// Over is New over given servers, one a region.
func Over(t testing.TB, servers []testenv.S3Server) (*objects.Store, *region.Table) {
	t.Helper()
	table, err := region.Loopback(names[:len(servers)]...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range servers {
		table.Regions[i].S3 = servers[i].Endpoint
	}
	store, err := objects.New(table, "eu", Config(servers[0]), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range store.Regions() {
		if err := b.Prepare(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return store, table
}

// Config is the store configuration for a server.
func Config(s testenv.S3Server) objects.Config {
	return objects.Config{AccessKey: service.Secret(s.AccessKey), SecretKey: service.Secret(s.SecretKey), Bucket: s.Bucket}
}
