package creators

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// finishTime is for an upload under way when everybody stops.
	finishTime = time.Minute
	// lookEvery is how often an asset that isn't ready is looked at.
	lookEvery = time.Second
	lookTime  = 5 * time.Second
	// maxUploads bounds what is remembered.
	maxUploads  = 5000
	maxAdvances = 50_000
	padding     = 4 << 10
)

// Config of a studio.
type Config struct {
	// APIs of all regions by name.
	APIs map[string]string
	Key  string
	// Template is a small video, uploaded again and again with other padding.
	Template string
	// Dir is for files of uploads under way; the caller removes it.
	Dir string
	// Near says where the creators are, one entry for each, and Order which APIs
	// they try: a creator's own region first.
	Near  []string
	Order func(near string) []string
	// Pause between one upload's acknowledgement and the next.
	Pause time.Duration
}

// Upload is one upload and what became of it.
type Upload struct {
	Near  string    `json:"near"`
	Asset string    `json:"asset,omitempty"`
	Began time.Time `json:"began"`
	// Acked is when all its bytes were acknowledged; zero if they weren't.
	Acked time.Time `json:"acked,omitzero"`
	// Ready is when it was seen ready.
	Ready time.Time `json:"ready,omitzero"`
	// State when last seen, and why it failed.
	State   string `json:"state,omitempty"`
	Failure string `json:"failure,omitempty"`
	// Err is why it wasn't acknowledged.
	Err string `json:"error,omitempty"`

	// encoded is how much of it was, when last seen, from 0 to 1.
	encoded float64
}

// Acknowledged reports whether the platform promised to keep it.
func (u Upload) Acknowledged() bool { return !u.Acked.IsZero() }

// Studio is the uploaders. Make one with New.
type Studio struct {
	cfg Config

	mu       sync.Mutex
	uploads  []Upload
	advances []time.Time
}

// New makes a studio that begins with Run.
func New(cfg Config) *Studio { return &Studio{cfg: cfg} }

// Uploads so far.
func (s *Studio) Uploads() []Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Upload(nil), s.uploads...)
}

// Advances are when more of an upload was seen to be encoded than before, in order.
func (s *Studio) Advances() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.advances...)
}

// advanced notes how much of an upload is encoded. s.mu is held.
func (s *Studio) advanced(u *Upload, encoded float64) {
	if encoded > u.encoded && len(s.advances) < maxAdvances {
		s.advances = append(s.advances, time.Now())
	}
	u.encoded = max(u.encoded, encoded)
}

// Run uploads until ctx ends, then lets uploads under way end.
func (s *Studio) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, near := range s.cfg.Near {
		wg.Go(func() { s.creator(ctx, i, near) })
	}
	looking, stop := context.WithCancel(context.WithoutCancel(ctx))
	var look sync.WaitGroup
	look.Go(func() { s.look(looking) })
	wg.Wait()
	stop()
	look.Wait()
}

func (s *Studio) creator(ctx context.Context, i int, near string) {
	c := s.client(near)
	defer c.Close()
	for n := 0; ctx.Err() == nil; n++ {
		s.upload(ctx, c, near, filepath.Join(s.cfg.Dir, fmt.Sprintf("creator-%d-%d.mp4", i, n)))
		if sleep.For(ctx, s.cfg.Pause) != nil {
			return
		}
	}
}

func (s *Studio) client(near string) *client.Client {
	var bases []string
	for _, name := range s.cfg.Order(near) {
		bases = append(bases, s.cfg.APIs[name])
	}
	return client.New(bases, s.cfg.Key)
}

func (s *Studio) upload(ctx context.Context, c *client.Client, near, file string) {
	s.mu.Lock()
	if len(s.uploads) >= maxUploads {
		s.mu.Unlock()
		return
	}
	at := len(s.uploads)
	s.uploads = append(s.uploads, Upload{Near: near, Began: time.Now()})
	s.mu.Unlock()
	// One that has begun may end: only then it is known whether it counts.
	uctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	late := context.AfterFunc(ctx, func() {
		if sleep.For(uctx, finishTime) == nil {
			cancel()
		}
	})
	defer late()
	err := unique(s.cfg.Template, file)
	var r client.Result
	if err == nil {
		r, err = c.Upload(uctx, client.Upload{Path: file, Title: "drill " + filepath.Base(file), StateDir: filepath.Join(s.cfg.Dir, "state")})
		err = errors.Join(err, os.Remove(file))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.uploads[at]
	u.Asset = r.Asset
	if r.Asset != "" {
		u.Acked = time.Now()
	}
	if err != nil {
		u.Err = err.Error()
	}
}

// unique copies a video with other bytes in a box that players skip (ISO
// 14496-12, 8.1.2).
func unique(template, to string) error {
	b, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	b = binary.BigEndian.AppendUint32(b, padding)
	b = append(b, "free"...)
	pad := make([]byte, padding-8)
	if _, err := io.ReadFull(rand.Reader, pad); err != nil {
		return err
	}
	return os.WriteFile(to, append(b, pad...), 0o600)
}

// look asks for the assets that aren't ready, one after the other.
func (s *Studio) look(ctx context.Context) {
	for ctx.Err() == nil {
		_ = s.Look(ctx) // once more in a moment
		if sleep.For(ctx, lookEvery) != nil {
			return
		}
	}
}

// ErrNotReady is what Look says while an acknowledged upload isn't ready.
var ErrNotReady = errors.New("not all acknowledged uploads are ready")

// Look asks once for every acknowledged upload that isn't ready or failed. It
// returns nil when all are ready or failed.
func (s *Studio) Look(ctx context.Context) error {
	if len(s.cfg.Near) == 0 {
		return nil
	}
	c := s.client(s.cfg.Near[0])
	defer c.Close()
	c.Patience = lookTime
	waiting := 0
	for i, u := range s.Uploads() {
		if !u.Acknowledged() || !u.Ready.IsZero() || u.Failure != "" {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, lookTime)
		a, err := c.Asset(actx, u.Asset)
		cancel()
		if err != nil {
			var p *client.Problem
			if !errors.As(err, &p) || p.Code != "not-found" {
				return err
			}
			a.State, a.Failure = "gone", &client.Failure{Code: p.Code, Detail: p.Detail}
		}
		s.mu.Lock()
		x := &s.uploads[i]
		x.State = a.State
		if a.Progress != nil {
			s.advanced(x, a.Progress.Encode)
		}
		switch {
		case a.Failure != nil:
			x.Failure = a.Failure.Code + ": " + a.Failure.Detail
		case a.State == "ready":
			// All clocks are this machine's, or as good as the platform needs them.
			if x.Ready = time.Now(); a.ReadyAt != nil {
				x.Ready = *a.ReadyAt
			}
		default:
			waiting++
		}
		s.mu.Unlock()
	}
	if waiting > 0 {
		return fmt.Errorf("%w: %d wait", ErrNotReady, waiting)
	}
	return nil
}

// Clean deletes the uploaded assets.
func (s *Studio) Clean(ctx context.Context) error {
	if len(s.cfg.Near) == 0 {
		return nil
	}
	c := s.client(s.cfg.Near[0])
	defer c.Close()
	var assets []string
	for _, u := range s.Uploads() {
		if u.Asset != "" {
			assets = append(assets, u.Asset)
		}
	}
	return remove(ctx, c, assets)
}

// removeAtOnce bounds the deletions under way: the leader may be far.
const removeAtOnce = 8

// remove deletes assets; one that is gone is no error.
func remove(ctx context.Context, c *client.Client, assets []string) error {
	errs := make([]error, len(assets))
	var g errgroup.Group
	g.SetLimit(removeAtOnce)
	for i, asset := range assets {
		g.Go(func() error {
			err := c.DeleteAsset(ctx, asset)
			var p *client.Problem
			if !errors.As(err, &p) || p.Code != "not-found" {
				errs[i] = err
			}
			return nil
		})
	}
	_ = g.Wait() // errs has them all
	return errors.Join(errs...)
}
