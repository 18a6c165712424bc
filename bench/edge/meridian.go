package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
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

// firstObject is the segment that the first of many objects is, past those named by
// their sizes.
const firstObject = 50_000

// home is the region that edges run in: a store with a public video, its segments
// of the sizes measured.
type home struct {
	s3               testenv.S3Server
	regions, secrets string // a file, a directory
}

// startHome makes the region once.
func (b *bench) startHome(ctx context.Context) error {
	if b.home != nil {
		return nil
	}
	s3, err := testenv.StartMinIO(ctx)
	if err != nil {
		return err
	}
	b.stops = append(b.stops, s3.Stop)
	table, err := region.Loopback("eu")
	if err != nil {
		return err
	}
	table.Regions[0].S3 = s3.Endpoint
	h := &home{s3: s3.S3Server, regions: filepath.Join(b.dir, "regions.yaml"), secrets: filepath.Join(b.dir, "secrets")}
	if err := token.GenerateSecrets(h.secrets, []string{"eu"}); err != nil {
		return err
	}
	if err := b.publish(ctx, table, h.secrets, objects.Config{AccessKey: service.Secret(s3.AccessKey), SecretKey: service.Secret(s3.SecretKey), Bucket: s3.Bucket}); err != nil {
		return err
	}
	raw, err := table.Marshal()
	if err != nil {
		return err
	}
	b.home = h
	return os.WriteFile(h.regions, raw, 0o600)
}

// meridian runs an edge as a region does.
func (b *bench) meridian(ctx context.Context) (*server, error) {
	bin, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	return b.edge(ctx, nameMeridian, bin)
}

// earlier runs the edge of another binary.
func (b *bench) earlier(ctx context.Context) (*server, error) {
	if b.before == "" {
		return nil, errors.New("-before names its binary")
	}
	return b.edge(ctx, nameBefore, b.before)
}

func (b *bench) edge(ctx context.Context, name, bin string) (*server, error) {
	if err := b.startHome(ctx); err != nil {
		return nil, err
	}
	addr, secure, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	h := b.home
	env := []string{
		"MERIDIAN_EDGE_TLS_LISTEN=" + secure, "MERIDIAN_EDGE_TLS_CERT=" + b.cert.cert, "MERIDIAN_EDGE_TLS_KEY=" + b.cert.key, "MERIDIAN_EDGE_TLS_HTTP3=" + strconv.FormatBool(b.http3),
		"MERIDIAN_REGIONS=" + h.regions, "MERIDIAN_REGION=eu", "MERIDIAN_EDGE=eu-1", "MERIDIAN_EDGE_LISTEN=" + addr,
		"MERIDIAN_EDGE_CACHE_DIR=" + filepath.Join(b.dir, name), "MERIDIAN_EDGE_PEERS=false", "MERIDIAN_EDGE_CLIENT_CONNECTIONS=0",
		"MERIDIAN_ROOT_PUBLIC_KEY=@" + filepath.Join(h.secrets, token.RootPublicFile),
		"MERIDIAN_SESSION_KEY=@" + filepath.Join(h.secrets, token.SessionKeyFile("eu")),
		"MERIDIAN_S3_ACCESS_KEY=" + h.s3.AccessKey, "MERIDIAN_S3_SECRET_KEY=" + h.s3.SecretKey, "MERIDIAN_S3_BUCKET=" + h.s3.Bucket,
	}
	path := func(_ string, size int) string {
		return "/v/" + token.None + "/" + asset + "/" + run0 + "/" + video + "/" + segment(size)
	}
	object := func(n int) string {
		return "/v/" + token.None + "/" + asset + "/" + run0 + "/" + video + "/" + hls.SegmentPath(firstObject+n, 1, 0)
	}
	if b.small {
		env = append(env, "MERIDIAN_EDGE_CACHE_MEMORY="+strconv.Itoa(diskMemory))
	}
	s := &server{name: name, path: path, object: object, base: "http://" + addr, secure: "https://" + secure}
	return s, b.process(ctx, s, env, bin, "edge-cache")
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
	s := &server{name: nameProxy, path: originPath, object: originObject, base: "http://" + addr, secure: "https://" + secure}
	args := []string{"cache", "--origin", "http://" + b.origin.addr, "--listen", addr, "--cache-dir", filepath.Join(b.dir, "proxy"),
		"--client-connections", "0", "--tls-listen", secure, "--tls-cert", b.cert.cert, "--tls-key", b.cert.key}
	if b.small {
		args = append(args, "--cache-memory", strconv.Itoa(diskMemory), "--max-object", strconv.Itoa(diskMemory/8))
	}
	if b.http3 {
		args = append(args, "--tls-http3")
	}
	return s, b.process(ctx, s, nil, append([]string{bin}, args...)...)
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
	if b.small {
		for n := range diskObjects {
			errs = append(errs, own.Put(ctx, objects.SegmentKey(asset, run0, video, hls.SegmentPath(firstObject+n, 1, 0)), objects.Bytes(b.origin.body(diskSize))))
		}
	}
	return errors.Join(errs...)
}
