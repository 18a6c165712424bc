package catalog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
)

// UploadExpiry is how long an upload may rest between two parts.
const UploadExpiry = 24 * time.Hour

// DefaultProfile names the encoding profile of runs that ask for none.
const DefaultProfile = "default"

// NewUpload is a request to open an asset's upload.
type NewUpload struct {
	// ID is chosen by the caller, who can thus name the upload before it exists; empty makes one.
	ID           string
	Owner, Asset string
	// Size is the declared length, -1 to defer it.
	Size                  int64
	Filename, ContentType string
	Metadata              map[string]string
}

// CreateUpload opens the upload of an asset in state waiting; an asset has one
// (ErrState for a second).
func (c *Catalog) CreateUpload(ctx context.Context, n NewUpload) (Upload, error) {
	metadata, err := json.Marshal(n.Metadata)
	if err != nil {
		return Upload{}, fmt.Errorf("create upload: %w", err)
	}
	if n.Metadata == nil {
		metadata = json.RawMessage("{}")
	}
	if n.ID == "" {
		n.ID = NewID()
	}
	var size *int64
	if n.Size >= 0 {
		size = &n.Size
	}
	var u Upload
	err = c.write(ctx, "create upload", func(q *db.Queries) error {
		a, err := lockOwned(ctx, q, n.Owner, n.Asset)
		if err != nil {
			return err
		}
		changed, err := q.MarkUploading(ctx, size, n.Asset)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("%w: asset is %s, and an asset takes one upload", ErrState, a.State)
		}
		row, err := q.InsertUpload(ctx, db.InsertUploadParams{ID: n.ID, Asset: n.Asset, Size: size, Filename: n.Filename, ContentType: n.ContentType,
			Metadata: metadata, ExpiresAt: time.Now().Add(UploadExpiry)})
		if err != nil {
			return err
		}
		if u, err = uploadOf(row, a.Owner, a.Placement, a.Regions); err != nil {
			return err
		}
		return emit(ctx, q, a, Event{Type: EventUploading}, outboxEntry{})
	})
	return u, err
}

// GetUpload returns an upload, from the leader: its offset is what a client goes on from.
func (c *Catalog) GetUpload(ctx context.Context, id string) (Upload, error) {
	var u Upload
	err := c.direct(ctx, "upload "+id, func(ctx context.Context, q *db.Queries) error {
		r, err := q.GetUpload(ctx, id)
		if err != nil {
			return err
		}
		u, err = uploadOf(db.Upload{ID: r.ID, Asset: r.Asset, State: r.State, Size: r.Size, Received: r.Received, Filename: r.Filename,
			ContentType: r.ContentType, Metadata: r.Metadata, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt}, r.Owner, r.Placement, r.Regions)
		if err != nil {
			return err
		}
		next, err := q.NextPart(ctx, r.Asset)
		u.Parts = int(next)
		return err
	})
	return u, err
}

// UploadOfAsset returns an asset's upload, or ErrNotFound.
func (c *Catalog) UploadOfAsset(ctx context.Context, asset string) (Upload, error) {
	var u Upload
	err := c.direct(ctx, "upload of "+asset, func(ctx context.Context, q *db.Queries) error {
		row, err := q.UploadOfAsset(ctx, asset)
		if err != nil {
			return err
		}
		a, err := q.GetAsset(ctx, asset)
		if err != nil {
			return err
		}
		if u, err = uploadOf(row, a.Owner, a.Placement, a.Regions); err != nil {
			return err
		}
		next, err := q.NextPart(ctx, asset)
		u.Parts = int(next)
		return err
	})
	return u, err
}

// DeclareSize sets the length of an upload that deferred it. A different length
// than declared before, or less than is there, gives ErrState.
func (c *Catalog) DeclareSize(ctx context.Context, id string, size int64) error {
	return c.write(ctx, "declare size of "+id, func(q *db.Queries) error {
		n, err := q.SetUploadSize(ctx, size, id)
		if err == nil && n == 0 {
			return ErrState
		}
		return err
	})
}

// AppendPart adds a stored part: it is in as many regions as its placement asks
// for, under the key made of p.N (Upload.Parts before it) and p.ID. The offset
// moves over it in the same transaction, and tasks that waited for its bytes wait
// no longer. A part that isn't the next gives *OffsetError; appending the same part
// again (same N and ID) is no error.
//
// With early, the first of several parts of an upload of known size starts the
// asset's first run.
func (c *Catalog) AppendPart(ctx context.Context, upload string, p Part, early bool) error {
	return c.write(ctx, "append part to "+upload, func(q *db.Queries) error {
		u, err := q.LockUpload(ctx, upload)
		if err != nil {
			return err
		}
		next, err := q.NextPart(ctx, u.Asset)
		if err != nil {
			return err
		}
		if u.Received != p.Start || int(next) != p.N {
			have, err := q.PartAt(ctx, u.Asset, p.Start)
			if err == nil && int(have.N) == p.N && have.ID == p.ID && bytes.Equal(have.Sha256, p.SHA256) {
				return nil
			}
			if err != nil && !errors.Is(err, errNoRows) {
				return err
			}
			return &OffsetError{Want: u.Received, Got: p.Start}
		}
		if u.State != "open" || u.Size != nil && u.Received+p.Size > *u.Size {
			return fmt.Errorf("%w: upload is %s with %d of %d bytes, part has %d", ErrState, u.State, u.Received, deref(u.Size), p.Size)
		}
		err = q.InsertPart(ctx, db.InsertPartParams{Asset: u.Asset, N: next, ID: p.ID, Start: p.Start, Size: p.Size, Sha256: p.SHA256, Regions: p.Regions})
		if err != nil {
			return err
		}
		if err := q.AdvanceUpload(ctx, p.Size, time.Now().Add(UploadExpiry), upload); err != nil {
			return err
		}
		if p.N > 0 {
			return q.ReleaseTasks(ctx, u.Asset, u.Received+p.Size)
		}
		if !early || u.Size == nil || p.Size == *u.Size {
			return nil
		}
		profile, err := profileOf(u.Metadata)
		if err != nil {
			return err
		}
		return q.InsertEarlyRun(ctx, db.InsertEarlyRunParams{Asset: u.Asset, Task: planTaskID(u.Asset, 1), Profile: profile,
			Class: string(First), Kind: string(KindPlan)})
	})
}

// FinishUpload makes a completely uploaded asset received. The run that began while
// it was uploaded goes on; without one, or if it has failed, another starts. Doing it
// again is no error; an incomplete upload gives *OffsetError.
func (c *Catalog) FinishUpload(ctx context.Context, upload string) (Asset, error) {
	var row db.Asset
	err := c.write(ctx, "finish upload "+upload, func(q *db.Queries) error {
		var err error
		// The asset before the upload, as everywhere: one order of locks.
		if row, err = q.LockAssetOfUpload(ctx, upload); err != nil {
			return err
		}
		if row.DeletedAt != nil {
			return ErrNotFound
		}
		locked, err := q.LockUploadAndRun(ctx, upload)
		if err != nil {
			return err
		}
		switch {
		case locked.State == "finished":
			return nil
		case locked.State != "open":
			return fmt.Errorf("%w: upload is %s", ErrState, locked.State)
		case locked.Size == nil || *locked.Size != locked.Received:
			return &OffsetError{Want: deref(locked.Size), Got: locked.Received}
		}
		if err := q.SetUploadState(ctx, "finished", upload); err != nil {
			return err
		}
		if row, err = q.MarkReceived(ctx, locked.Size, row.ID); err != nil {
			return err
		}
		run := locked.Run
		switch RunState(locked.RunState) {
		case RunPlanned, RunEncoding:
			if err := q.ReleaseTasks(ctx, row.ID, math.MaxInt64); err != nil {
				return err
			}
			return emit(ctx, q, row, Event{Type: EventReceived, Run: runOf(run)}, outboxEntry{})
		}
		run++
		profile, err := profileOf(locked.Metadata)
		if err != nil {
			return err
		}
		if err := startRun(ctx, q, row, int(run), profile); err != nil {
			return err
		}
		return emit(ctx, q, row, Event{Type: EventReceived, Run: runOf(run)}, outboxEntry{})
	})
	return assetOf(row), err
}

// ProfileKey is the upload's metadata that names the profile to encode with.
const ProfileKey = "profile"

func profileOf(metadata json.RawMessage) (string, error) {
	var m map[string]string
	if err := json.Unmarshal(metadata, &m); err != nil {
		return "", fmt.Errorf("upload's metadata: %w", err)
	}
	return cmp.Or(m[ProfileKey], DefaultProfile), nil
}

func startRun(ctx context.Context, q *db.Queries, a db.Asset, n int, profile string) error {
	if err := q.InsertRun(ctx, a.ID, int32(n), profile); err != nil {
		return err
	}
	return q.InsertTask(ctx, db.InsertTaskParams{ID: planTaskID(a.ID, n), Asset: a.ID, Run: int32(n), Owner: a.Owner, Class: string(firstOf(a)),
		Kind: string(KindPlan), Spec: json.RawMessage("{}"), Region: a.Region, Pinned: a.Regions})
}

// firstOf is the class of what an asset's first viewer waits for. Nobody waits for a run that
// is to replace another.
func firstOf(a db.Asset) Class {
	if State(a.State) == Ready {
		return Ladder
	}
	return First
}

func planTaskID(asset string, run int) string { return asset + "/" + hls.RunName(run) + "/plan" }

// FailUpload ends an upload for good: the asset is failed with f, and its parts
// are removed, with all that was made of them. A finished or failed upload gives ErrState.
func (c *Catalog) FailUpload(ctx context.Context, upload string, f Failure) error {
	return c.write(ctx, "fail upload "+upload, func(q *db.Queries) error {
		u, err := q.GetUpload(ctx, upload)
		if err != nil {
			return err
		}
		a, err := lockOwned(ctx, q, "", u.Asset)
		if err != nil {
			return err
		}
		if State(a.State) != Waiting && State(a.State) != Uploading {
			return fmt.Errorf("%w: asset is %s", ErrState, a.State)
		}
		// First, so that no part that is on its way can start a run after this.
		if err := q.CloseUploadOfAsset(ctx, a.ID); err != nil {
			return err
		}
		if err := q.CancelTasks(ctx, a.ID, nil); err != nil {
			return err
		}
		if err := q.CancelRuns(ctx, a.ID); err != nil {
			return err
		}
		run, err := newestRun(ctx, q, a.ID)
		if err != nil {
			return err
		}
		return failAsset(ctx, q, a, run, f)
	})
}

func uploadOf(r db.Upload, owner, mode string, regions []string) (Upload, error) {
	u := Upload{ID: r.ID, Asset: r.Asset, Owner: owner, State: r.State, Size: -1, Received: r.Received, Filename: r.Filename,
		ContentType: r.ContentType, Placement: placementOf(mode, regions), CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt}
	if r.Size != nil {
		u.Size = *r.Size
	}
	return u, json.Unmarshal(r.Metadata, &u.Metadata)
}
