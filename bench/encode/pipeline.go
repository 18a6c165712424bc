package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/bench/proc"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// pipeline is a one-region platform without its front.
type pipeline struct {
	cat     *catalog.Catalog
	table   *region.Table
	store   *objects.Store
	workers []*worker
	cancel  context.CancelFunc
	group   *errgroup.Group
	closers []func()
}

// worker is one `meridian encoder`.
type worker struct {
	cmd    *exec.Cmd
	admin  string
	log    bytes.Buffer
	before map[string]float64
}

const bucket = "bench"

// program is this program's name in /proc, which holds 15 bytes of it.
var program = filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))]

func startPipeline(ctx context.Context, o options, dir string) (p *pipeline, err error) {
	p = &pipeline{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	pg, err := testenv.StartPostgres(ctx)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, pg.Stop)
	queue, err := testenv.StartNATS(ctx)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, queue.Stop)
	minio, err := testenv.StartMinIO(ctx)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, minio.Stop)
	table, err := region.Loopback("eu")
	if err != nil {
		return p, err
	}
	dsn, err := url.Parse(pg.DSN)
	if err != nil {
		return p, err
	}
	table.Regions[0].S3, table.Regions[0].NATS, table.Regions[0].Postgres = minio.Endpoint, queue.URL, dsn.Host
	p.table = table
	b, err := table.Marshal()
	if err != nil {
		return p, err
	}
	regions := filepath.Join(dir, "regions.yaml")
	if err := os.WriteFile(regions, b, 0o600); err != nil {
		return p, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if p.cat, err = catalog.Open(pg.DSN, 0, log); err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.cat.Close)
	if err := p.cat.Migrate(ctx); err != nil {
		return p, err
	}
	conn, err := jobs.Connect([]string{queue.URL}, 1, log)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, conn.Close)
	p.store, err = objects.New(table, "eu", objects.Config{AccessKey: service.Secret(minio.AccessKey), SecretKey: service.Secret(minio.SecretKey), Bucket: bucket}, log)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.store.Close)
	for _, b := range p.store.Regions() {
		if err := b.Prepare(ctx); err != nil {
			return p, err
		}
	}
	signer, err := token.NewSigner("record-1")
	if err != nil {
		return p, err
	}
	var gctx context.Context
	gctx, p.cancel = context.WithCancel(ctx)
	p.group, gctx = errgroup.WithContext(gctx)
	pub := &catalog.Publisher{Catalog: p.cat, Objects: p.store, Events: conn, Signer: signer, Log: log}
	p.group.Go(func() error { return pub.Run(gctx) })
	dispatcher := &jobs.Dispatcher{Catalog: p.cat, Conn: conn, Name: "bench", Regions: []string{"eu"}, Log: log}
	p.group.Go(func() error { return dispatcher.Run(gctx) })
	for n := range o.workers {
		w, err := startWorker(ctx, o, filepath.Join(dir, "scratch-"+strconv.Itoa(n)), regions, minio, dsn)
		if w != nil {
			p.workers = append(p.workers, w)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

func startWorker(ctx context.Context, o options, scratch, regions string, minio *testenv.MinIOServer, dsn *url.URL) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &worker{admin: "http://" + l.Addr().String()}
	if err := l.Close(); err != nil {
		return nil, err
	}
	// As fast as bare ffmpeg is allowed to be, no niceness, and the same rungs under
	// the same caps. Where nothing is compared all is as ever.
	how := []string{"--nice", "0", "--no-per-title"}
	if len(o.lengths) > 0 {
		how = nil
	}
	w.cmd = exec.Command(self, append([]string{"encoder", "--regions", regions, "--region", "eu", "--admin-listen", l.Addr().String(),
		"--s3-access-key", minio.AccessKey, "--s3-secret-key", minio.SecretKey, "--s3-bucket", bucket,
		"--postgres-user", dsn.User.Username(), "--postgres-database", strings.TrimPrefix(dsn.Path, "/"),
		"--scratch-dir", scratch, "--max-height", strconv.Itoa(o.height), "--threads", strconv.Itoa(o.threads), "--slots", strconv.Itoa(o.slots)}, how...)...)
	w.cmd.Stdout, w.cmd.Stderr = &w.log, &w.log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err = get(ctx, w.admin+"/readyz"); err == nil {
			return w, nil
		}
		if time.Now().After(deadline) {
			return w, fmt.Errorf("worker isn't ready: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stop ends workers first, then what they need.
func (p *pipeline) stop() error {
	var errs []error
	for _, w := range p.workers {
		errs = append(errs, w.cmd.Process.Signal(syscall.SIGTERM))
		kill := time.AfterFunc(20*time.Second, func() { _ = w.cmd.Process.Kill() })
		if err := w.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("worker: %w: %s", err, w.log.Bytes()[max(0, w.log.Len()-2000):]))
		}
		kill.Stop()
	}
	if p.cancel != nil {
		p.cancel()
		errs = append(errs, p.group.Wait())
	}
	for _, c := range slices.Backward(p.closers) {
		c()
	}
	return errors.Join(errs...)
}

// partSize of uploads; owner of all assets.
const (
	partSize = 16 << 20
	owner    = "bench"
)

// upload stores a file as the parts of a new asset's upload.
func (p *pipeline) upload(ctx context.Context, file string) (asset, upload string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", "", err
	}
	a, err := p.cat.CreateAsset(ctx, catalog.NewAsset{Owner: owner, Title: "bench", Region: "eu"})
	if err != nil {
		return "", "", err
	}
	u, err := p.cat.CreateUpload(ctx, catalog.NewUpload{Owner: owner, Asset: a.ID, Size: info.Size()})
	if err != nil {
		return "", "", err
	}
	part := make([]byte, partSize)
	for n, at := 0, int64(0); at < info.Size(); n++ {
		b := part[:min(partSize, info.Size()-at)]
		if _, err := io.ReadFull(f, b); err != nil {
			return "", "", err
		}
		in, err := p.store.Put(ctx, objects.PartKey(a.ID, n, "p"), objects.Bytes(b), objects.Placement{})
		if err != nil {
			return "", "", err
		}
		sum := sha256.Sum256(b)
		if err := p.cat.AppendPart(ctx, u.ID, catalog.Part{N: n, ID: "p", Start: at, Size: int64(len(b)), SHA256: sum[:], Regions: in}, false); err != nil {
			return "", "", err
		}
		at += int64(len(b))
	}
	return a.ID, u.ID, nil
}

// await waits until an asset has one of the states.
func (p *pipeline) await(ctx context.Context, asset string, states ...catalog.State) (catalog.Asset, error) {
	for {
		a, err := p.cat.GetAsset(ctx, owner, asset)
		switch {
		case err != nil:
			return a, err
		case a.State == catalog.Failed:
			return a, fmt.Errorf("encode failed: %s: %s", a.Failure.Code, a.Failure.Detail)
		case slices.Contains(states, a.State):
			return a, nil
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// encode uploads file and measures from its acknowledgement to ready.
func (p *pipeline) encode(ctx context.Context, file string) (result, error) {
	asset, upload, err := p.upload(ctx, file)
	if err != nil {
		return result{}, err
	}
	if err := p.remember(ctx); err != nil {
		return result{}, err
	}
	before, err := cpuByName()
	if err != nil {
		return result{}, err
	}
	peak := p.watchMemory()
	start := time.Now()
	r, err := p.follow(ctx, asset, upload, start)
	memory, merr := peak()
	if err = errors.Join(err, merr); err != nil {
		return result{}, err
	}
	r.memory = memory
	after, err := cpuByName()
	if err != nil {
		return result{}, err
	}
	var parts []string
	for name, v := range after {
		d := v - before[name]
		if name == program {
			parts = append(parts, fmt.Sprintf("worker %.2f s CPU", d.Seconds()))
		}
		if ours(name) {
			r.cpu += d
		} else if d >= proc.Tick {
			parts = append(parts, fmt.Sprintf("%s %.2f s CPU", name, d.Seconds()))
		}
	}
	stages, err := p.stages(ctx)
	if err != nil {
		return result{}, err
	}
	// What follows would disturb the next round.
	if err := p.settle(ctx, asset); err != nil {
		return result{}, err
	}
	settled, err := cpuByName()
	if err != nil {
		return result{}, err
	}
	for name, v := range settled {
		if ours(name) {
			r.pictures += v - after[name]
		}
	}
	parts = append(parts, stages...)
	slices.Sort(parts)
	r.detail = strings.Join(parts, ", ")
	return r, nil
}

// follow finishes an upload and waits until its asset is ready.
func (p *pipeline) follow(ctx context.Context, asset, upload string, start time.Time) (r result, err error) {
	if _, err := p.cat.FinishUpload(ctx, upload); err != nil {
		return r, err
	}
	if _, err := p.await(ctx, asset, catalog.Playable, catalog.Ready); err != nil {
		return r, err
	}
	r.playable = time.Since(start)
	_, err = p.await(ctx, asset, catalog.Ready)
	r.wall = time.Since(start)
	return r, err
}

// memoryEvery is how often workers' memory is looked at: to look takes time, too.
const memoryEvery = time.Second

// watchMemory looks at the workers' memory, that of their children included, until
// peak is called, which returns the most of any of them, in bytes.
func (p *pipeline) watchMemory() (peak func() (int64, error)) {
	ctx, stop := context.WithCancel(context.Background())
	var g errgroup.Group
	most := int64(0)
	g.Go(func() error {
		for {
			for _, w := range p.workers {
				n, err := proc.Memory(w.cmd.Process.Pid)
				if err != nil {
					return err
				}
				most = max(most, n)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(memoryEvery):
			}
		}
	})
	return func() (int64, error) {
		stop()
		err := g.Wait()
		return most, err
	}
}

// ours says whether a program is the worker or one of its children.
func ours(name string) bool {
	return name == program || name == program+childrenOf || strings.HasPrefix(name, "ff")
}

// settle waits until a ready asset has its pictures, too: they are made when nobody waits.
func (p *pipeline) settle(ctx context.Context, asset string) error {
	for {
		a, err := p.cat.GetAsset(ctx, owner, asset)
		if err != nil || a.Poster != "" {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// remember begins what stages tells.
func (p *pipeline) remember(ctx context.Context) (err error) {
	for _, w := range p.workers {
		if w.before, err = w.metrics(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stages says what workers have spent their time on since remember.
func (p *pipeline) stages(ctx context.Context) ([]string, error) {
	spent := map[string]float64{}
	for _, w := range p.workers {
		now, err := w.metrics(ctx)
		if err != nil {
			return nil, err
		}
		for k, v := range now {
			spent[k] += v - w.before[k]
		}
	}
	var out []string
	for k, v := range spent {
		if v >= 0.005 {
			out = append(out, fmt.Sprintf("%s %.2f s", k, v))
		}
	}
	slices.Sort(out)
	return out, nil
}

// metrics are the worker's stages and numbers of tasks.
func (w *worker) metrics(ctx context.Context) (map[string]float64, error) {
	b, err := get(ctx, w.admin+"/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		stage, ok := strings.CutPrefix(name, `meridian_encoder_stage_seconds_total{stage="`)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		out[strings.TrimSuffix(stage, `"}`)] = v
	}
	return out, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}
