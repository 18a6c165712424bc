package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	asset = "abcdefghijklmnopqrstuvwxyz"
	run0  = "r1"
	video = "v1080"
)

// segment names the segment of a size: its number is the size in KiB.
func segment(size int) string { return hls.SegmentPath(size>>10, 1, 0) }

// meridian runs an edge as a region does: a store beside it, a public video, its
// segments of the sizes measured.
func (b *bench) meridian(ctx context.Context) (*server, error) {
	bin, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	s3, err := testenv.StartMinIO(ctx)
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, s3.Stop)
	table, err := region.Loopback("eu")
	if err != nil {
		return nil, err
	}
	table.Regions[0].S3 = s3.Endpoint
	secrets := filepath.Join(b.dir, "secrets")
	if err := token.GenerateSecrets(secrets, []string{"eu"}); err != nil {
		return nil, err
	}
	if err := b.publish(ctx, table, secrets, objects.Config{AccessKey: service.Secret(s3.AccessKey), SecretKey: service.Secret(s3.SecretKey), Bucket: s3.Bucket}); err != nil {
		return nil, err
	}
	raw, err := table.Marshal()
	if err != nil {
		return nil, err
	}
	regions := filepath.Join(b.dir, "regions.yaml")
	if err := os.WriteFile(regions, raw, 0o600); err != nil {
		return nil, err
	}
	addr, secure, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	env := []string{
		"MERIDIAN_EDGE_TLS_LISTEN=" + secure, "MERIDIAN_EDGE_TLS_CERT=" + b.cert.cert, "MERIDIAN_EDGE_TLS_KEY=" + b.cert.key,
		"MERIDIAN_REGIONS=" + regions, "MERIDIAN_REGION=eu", "MERIDIAN_EDGE=eu-1", "MERIDIAN_EDGE_LISTEN=" + addr,
		"MERIDIAN_EDGE_CACHE_DIR=" + filepath.Join(b.dir, "edge"), "MERIDIAN_EDGE_PEERS=false", "MERIDIAN_EDGE_CLIENT_CONNECTIONS=0",
		"MERIDIAN_ROOT_PUBLIC_KEY=@" + filepath.Join(secrets, token.RootPublicFile),
		"MERIDIAN_SESSION_KEY=@" + filepath.Join(secrets, token.SessionKeyFile("eu")),
		"MERIDIAN_S3_ACCESS_KEY=" + s3.AccessKey, "MERIDIAN_S3_SECRET_KEY=" + s3.SecretKey, "MERIDIAN_S3_BUCKET=" + s3.Bucket,
	}
	path := func(_ string, size int) string {
		return "/v/" + token.None + "/" + asset + "/" + run0 + "/" + video + "/" + segment(size)
	}
	return &server{name: nameMeridian, ours: true, path: path, base: "http://" + addr, secure: "https://" + secure}, b.process(ctx, "meridian", addr, env, bin, "edge-cache")
}

// proxy runs the same cache before the origin the peers have.
func (b *bench) proxy(ctx context.Context) (*server, error) {
	bin, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	addr, secure, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	return &server{name: nameProxy, ours: true, path: originPath, base: "http://" + addr, secure: "https://" + secure},
		b.process(ctx, "proxy", addr, nil, bin, "cache", "--origin", "http://"+b.origin.addr, "--listen", addr, "--cache-dir", filepath.Join(b.dir, "proxy"),
			"--tls-listen", secure, "--tls-cert", b.cert.cert, "--tls-key", b.cert.key)
}

// publish puts what the edge reads into the store.
func (b *bench) publish(ctx context.Context, table *region.Table, secrets string, cfg objects.Config) error {
	store, err := objects.New(table, "eu", cfg, b.log)
	if err != nil {
		return err
	}
	defer store.Close()
	own := store.Own()
	if err := own.Prepare(ctx); err != nil {
		return err
	}
	keys, err := os.ReadFile(filepath.Join(secrets, token.KeySetFile))
	if err != nil {
		return err
	}
	seed, err := os.ReadFile(filepath.Join(secrets, token.RecordKeyFile))
	if err != nil {
		return err
	}
	signer, err := token.ParseSigner(strings.TrimSpace(string(seed)))
	if err != nil {
		return err
	}
	record, err := playback.Sign(playback.Record{Asset: asset, N: 1, State: "ready", Run: run0, Master: 1, Visibility: playback.Public, Duration: 6}, signer)
	if err != nil {
		return err
	}
	errs := []error{
		own.Put(ctx, objects.JournalKey(objects.KeysJournal, 1), objects.Bytes([]byte(strings.TrimSpace(string(keys))))),
		own.Put(ctx, objects.JournalKey(objects.PlaybackJournal(asset), 1), objects.Bytes(record)),
	}
	sizes, err := parseSizes(b.sizes)
	if err != nil {
		return err
	}
	for _, size := range sizes {
		errs = append(errs, own.Put(ctx, objects.SegmentKey(asset, run0, video, segment(size)), objects.Bytes(b.origin.body(size))))
	}
	return errors.Join(errs...)
}
