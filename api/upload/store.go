package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
)

// Assets makes the assets that uploads are for.
type Assets interface {
	CreateAsset(ctx context.Context, n catalog.NewAsset) (catalog.Asset, error)
	DeleteAsset(ctx context.Context, owner, id string) error
}

// Uploads keeps the truth about uploads.
type Uploads interface {
	CreateUpload(ctx context.Context, n catalog.NewUpload) (catalog.Upload, error)
	GetUpload(ctx context.Context, id string) (catalog.Upload, error)
	UploadOfAsset(ctx context.Context, asset string) (catalog.Upload, error)
	DeclareSize(ctx context.Context, id string, size int64) error
	AppendPart(ctx context.Context, upload string, p catalog.Part, early bool) error
	FinishUpload(ctx context.Context, upload string) (catalog.Asset, error)
	FailUpload(ctx context.Context, upload string, f catalog.Failure) error
}

// Objects stores parts.
type Objects interface {
	Put(ctx context.Context, key string, body objects.Body, p objects.Placement) ([]string, error)
}

// store is tusd's data store over parts.
type store struct {
	cfg     Config
	assets  Assets
	uploads Uploads
	objects Objects
	table   *region.Table
	self    string
	log     *slog.Logger
	metrics *metrics
}

var uploadID = regexp.MustCompile(`^[a-z2-7]{26}$`)

// NewUpload opens the upload of an existing or a new asset.
func (s *store) NewUpload(ctx context.Context, info handler.FileInfo) (handler.Upload, error) {
	t := transferOf(ctx)
	u, err := s.create(ctx, t, info)
	if err != nil {
		return nil, t.fail(err)
	}
	t.expires, t.asset = u.ExpiresAt, u.Asset
	if !u.Placement.Allows(s.self) {
		t.location = s.elsewhere(u)
	}
	return &source{store: s, row: u}, nil
}

func (s *store) create(ctx context.Context, t *transfer, info handler.FileInfo) (catalog.Upload, error) {
	m, err := parseMetadata(info.MetaData)
	if err != nil {
		return catalog.Upload{}, err
	}
	asset, made := t.caller.Asset, false
	if asset == "" {
		asset = m.asset
	}
	if asset == "" {
		a, err := s.assets.CreateAsset(ctx, catalog.NewAsset{Owner: t.caller.Owner, Title: m.title, Visibility: m.visibility, Region: s.self,
			IdempotencyKey: t.caller.IdempotencyKey})
		if err != nil {
			return catalog.Upload{}, err
		}
		asset, made = a.ID, a.State == catalog.Waiting
	}
	size := info.Size
	if info.SizeIsDeferred {
		size = -1
	}
	u, err := s.uploads.CreateUpload(ctx, catalog.NewUpload{Owner: t.caller.Owner, Asset: asset, Size: size,
		Filename: m.filename, ContentType: m.contentType, Metadata: info.MetaData})
	switch {
	case err == nil:
		return u, nil
	case errors.Is(err, catalog.ErrState) && t.caller.IdempotencyKey != "":
		// The same creation, repeated because its answer was lost.
		u, ferr := s.uploads.UploadOfAsset(ctx, asset)
		if ferr == nil && u.State == "open" && u.Size == size && u.Owner == t.caller.Owner {
			return u, nil
		}
	case made && t.caller.IdempotencyKey == "":
		// Nobody knows this asset's id, so nobody else would remove it.
		if derr := s.assets.DeleteAsset(ctx, t.caller.Owner, asset); derr != nil {
			s.log.Warn("asset without an upload is left behind", "asset", asset, "err", derr)
		}
	}
	return catalog.Upload{}, err
}

// elsewhere is the URL of an upload in a region where its bytes may be.
func (s *store) elsewhere(u catalog.Upload) string {
	for _, r := range s.table.Nearest(s.self) {
		if u.Placement.Allows(r.Name) {
			return r.API + Path + "/" + u.ID
		}
	}
	return ""
}

// GetUpload finds an upload of the caller.
func (s *store) GetUpload(ctx context.Context, id string) (handler.Upload, error) {
	t := transferOf(ctx)
	u, err := s.get(ctx, t, id)
	if err != nil {
		return nil, t.fail(err)
	}
	t.expires, t.asset = u.ExpiresAt, u.Asset
	return &source{store: s, row: u}, nil
}

func (s *store) get(ctx context.Context, t *transfer, id string) (catalog.Upload, error) {
	missing := problem.New(problem.NotFound, "Check the upload's URL: there is no such upload among this API key's own.")
	if !uploadID.MatchString(id) {
		return catalog.Upload{}, missing
	}
	u, err := s.uploads.GetUpload(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && u.Owner != t.caller.Owner {
		return catalog.Upload{}, missing
	}
	if err != nil {
		return catalog.Upload{}, err
	}
	if u.State == "failed" || u.State == "open" && u.ExpiresAt.Before(time.Now()) {
		return catalog.Upload{}, problem.New(problem.Gone, "Create a new upload: this one has failed or expired.")
	}
	if !u.Placement.Allows(s.self) {
		p := problem.New(problem.WrongRegion, "Send the upload to the URL in Location: the asset is pinned to %s.", strings.Join(u.Placement.Regions, ", "))
		p.Header = map[string][]string{"Location": {s.elsewhere(u)}}
		return catalog.Upload{}, p
	}
	// All bytes are there, but the process that took the last died before it said so.
	if u.State == "open" && u.Size > 0 && u.Received == u.Size {
		if _, err := s.uploads.FinishUpload(ctx, u.ID); err != nil {
			return catalog.Upload{}, err
		}
	}
	return u, nil
}

// AsTerminatableUpload implements handler.TerminaterDataStore.
func (s *store) AsTerminatableUpload(u handler.Upload) handler.TerminatableUpload { return u.(*source) }

// AsLengthDeclarableUpload implements handler.LengthDeferrerDataStore.
func (s *store) AsLengthDeclarableUpload(u handler.Upload) handler.LengthDeclarableUpload {
	return u.(*source)
}

// source is one upload within one request.
type source struct {
	*store
	row catalog.Upload
}

// GetInfo tells tusd where the upload stands.
func (u *source) GetInfo(context.Context) (handler.FileInfo, error) {
	return handler.FileInfo{ID: u.row.ID, Size: max(u.row.Size, 0), SizeIsDeferred: u.row.Size < 0, Offset: u.row.Received,
		MetaData: u.row.Metadata}, nil
}

// GetReader isn't offered: sources aren't downloaded through tus.
func (u *source) GetReader(context.Context) (io.ReadCloser, error) {
	return nil, handler.ErrNotImplemented
}

// DeclareLength fixes a length the creation deferred.
func (u *source) DeclareLength(ctx context.Context, length int64) error {
	if err := u.uploads.DeclareSize(ctx, u.row.ID, length); err != nil {
		return transferOf(ctx).fail(err)
	}
	u.row.Size = length
	return nil
}

// Terminate ends an upload its creator gives up, and removes its asset.
func (u *source) Terminate(ctx context.Context) error {
	t := transferOf(ctx)
	if u.row.State == "finished" {
		return t.fail(problem.New(problem.WrongState, "The upload is complete: delete the asset instead."))
	}
	return t.fail(u.assets.DeleteAsset(ctx, u.row.Owner, u.row.Asset))
}

// FinishUpload makes the asset received, or failed when there are no bytes.
func (u *source) FinishUpload(ctx context.Context) error {
	t := transferOf(ctx)
	if u.row.Size == 0 {
		detail := "The file has no bytes. Check that it was exported or copied completely, and upload it as a new asset."
		if err := u.uploads.FailUpload(ctx, u.row.ID, catalog.Failure{Code: problem.Empty.Code, Detail: detail}); err != nil {
			return t.fail(err)
		}
		return t.fail(problem.New(problem.Empty, "%s", detail))
	}
	err := u.again(ctx, func() error {
		_, err := u.uploads.FinishUpload(ctx, u.row.ID)
		return err
	})
	return t.fail(err)
}

// again repeats a step while the database or the stores are away, for a while.
func (s *store) again(ctx context.Context, step func() error) error {
	deadline := time.Now().Add(patience)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := step()
		away := errors.Is(err, catalog.ErrUnavailable) || errors.Is(err, objects.ErrTooFewRegions) || errors.Is(err, objects.ErrUnavailable)
		if !away || time.Now().Add(wait).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// store puts one part where its placement says and moves the offset over it.
func (u *source) storePart(ctx context.Context, s *spool, start int64) error {
	began := time.Now()
	body := s.body()
	p := catalog.Part{N: u.row.Parts, ID: catalog.NewID(), Start: start, Size: body.Size, SHA256: body.SHA256[:]}
	err := u.again(ctx, func() error {
		var err error
		p.Regions, err = u.objects.Put(ctx, objects.PartKey(u.row.Asset, p.N, p.ID), body, u.row.Placement)
		return err
	})
	if err != nil {
		return fmt.Errorf("part %d of %s: %w", p.N, u.row.Asset, err)
	}
	// Appending the same part twice is no error, so an answer that was lost is asked for again.
	if err := u.again(ctx, func() error { return u.uploads.AppendPart(ctx, u.row.ID, p, u.cfg.Early) }); err != nil {
		return fmt.Errorf("part %d of %s: %w", p.N, u.row.Asset, err)
	}
	u.row.Parts++
	u.row.Received += p.Size
	u.metrics.parts.Inc()
	u.metrics.bytes.Add(float64(p.Size))
	u.metrics.stored.Observe(time.Since(began).Seconds())
	return nil
}

// spoolError turns a full disk into a problem of storage.
func spoolError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		p := problem.New(problem.Storage, "This region has no room to receive. Go on in a moment, or through another region.")
		p.RetryAfter, p.Cause = 30*time.Second, err
		return p
	}
	return err
}
