package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
)

// front serves uploads as api does, with and without encoding early.
type front struct {
	server *http.Server
	served chan error
	// urls by whether what is uploaded is encoded early.
	urls map[bool]string
}

func (p *pipeline) front(ctx context.Context, dir string) (*front, error) {
	f := &front{urls: map[bool]string{}, served: make(chan error, 1)}
	mux := http.NewServeMux()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	for _, early := range []bool{true, false} {
		cfg := upload.Config{MaxBytes: 64 << 30, MaxOpen: 4, PartBytes: 32 << 20, SpoolDir: dir, Early: early}
		if err := cfg.Validate(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		h, err := upload.New(cfg, upload.Deps{Assets: p.cat, Uploads: p.cat, Objects: p.store, Table: p.table, Self: "eu",
			Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		prefix := "/" + strconv.FormatBool(early)
		f.urls[early] = "http://" + l.Addr().String() + prefix
		mux.Handle(prefix+"/", http.StripPrefix(prefix, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := h.Serve(w, r, upload.Caller{Owner: owner}); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})))
	}
	f.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { f.served <- f.server.Serve(l) }()
	return f, nil
}

func (f *front) stop() error {
	err := f.server.Close()
	if serr := <-f.served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// paced reads at a rate in bytes per second.
type paced struct {
	r     io.Reader
	rate  float64
	began time.Time
	read  int64
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), 64<<10)])
	p.read += int64(n)
	time.Sleep(time.Until(p.began.Add(time.Duration(float64(p.read) / p.rate * float64(time.Second)))))
	return n, err
}

// send uploads a file through tus, its bytes at the given rate in Mbit/s, and returns
// its asset when the last one is acknowledged.
func (f *front) send(ctx context.Context, file string, rate float64, early bool) (asset string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	request := func(method, url string, body io.Reader, header map[string]string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, body)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Tus-Resumable", "1.0.0")
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode >= http.StatusBadRequest {
			err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, b)
		}
		return resp, err
	}
	created, err := request(http.MethodPost, f.urls[early]+upload.Path, nil, map[string]string{"Upload-Length": strconv.FormatInt(info.Size(), 10)})
	if err != nil {
		return "", err
	}
	body := &paced{r: in, rate: rate * 1e6 / 8, began: time.Now()}
	_, err = request(http.MethodPatch, f.urls[early]+upload.Path+"/"+filepath.Base(created.Header.Get("Location")), body,
		map[string]string{"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"})
	return created.Header.Get(upload.AssetHeader), err
}

// lines prints how soon after its last byte a video that comes over a creator's
// line is playable and ready, begun early and not.
func lines(ctx context.Context, o options, p *pipeline, dir string, out io.Writer) (err error) {
	f, err := p.front(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	fmt.Fprintln(out, "| Source | Container | Length | Line | Begun early | Upload took | Playable after its end | Ready after its end |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|")
	for _, s := range []struct {
		name, source string
		containers   []string
	}{{"H.264, 1080p30", o.source, []string{"mp4", "fragmented", "mpegts", "matroska"}}, {"VP9, 1080p24", o.vp9, []string{"mp4", "webm"}}} {
		for _, c := range s.containers {
			if !slices.Contains(o.containers, c) {
				continue
			}
			for _, length := range o.lengths {
				if err := p.linesOf(ctx, o, f, s.name, s.source, c, length, dir, out); err != nil {
					return fmt.Errorf("%s, %s, %s: %w", s.name, c, length, err)
				}
			}
		}
	}
	return nil
}

// linesOf is one source in one container.
func (p *pipeline) linesOf(ctx context.Context, o options, f *front, name, source, container string, length time.Duration, dir string, out io.Writer) (err error) {
	file := filepath.Join(dir, "line")
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	if err := repeat(ctx, source, file, length, containers[container]...); err != nil {
		return err
	}
	for _, rate := range o.lines {
		for _, early := range []bool{true, false} {
			if err := p.line(ctx, o, f, file, rate, early, fmt.Sprintf("| %s | %s | %s ", name, container, length), out); err != nil {
				return fmt.Errorf("%v Mbit/s: %w", rate, err)
			}
		}
	}
	return nil
}

func (p *pipeline) line(ctx context.Context, o options, f *front, file string, rate float64, early bool, title string, out io.Writer) error {
	began := time.Now()
	asset, err := f.send(ctx, file, rate, early)
	if err != nil {
		return err
	}
	end := time.Now()
	if _, err := p.await(ctx, asset, catalog.Playable, catalog.Ready); err != nil {
		return err
	}
	playable := time.Since(end)
	ready := "not waited for"
	if o.ready {
		if _, err := p.await(ctx, asset, catalog.Ready); err != nil {
			return err
		}
		ready = fmt.Sprintf("%.1f s", time.Since(end).Seconds())
	}
	fmt.Fprintf(out, "%s| %v Mbit/s | %s | %.1f s | %.2f s | %s |\n", title, rate, map[bool]string{true: "yes", false: "no"}[early],
		end.Sub(began).Seconds(), playable.Seconds(), ready)
	if err := p.cat.DeleteAsset(ctx, owner, asset); err != nil {
		return err
	}
	return untilIdle(ctx)
}
