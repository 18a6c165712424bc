package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

// NewAsset is a request to create an asset.
type NewAsset struct {
	Owner, Title string
	// Visibility defaults to public.
	Visibility playback.Visibility
	Placement  objects.Placement
	// Region is where the request arrived: the asset's work is offered there first.
	Region string
	// IdempotencyKey, if any, makes a repeated request return the first one's asset.
	IdempotencyKey string
}

// CreateAsset creates an asset in state waiting. With an idempotency key seen
// before it returns the asset made then, or ErrKeyReuse if that request differed.
func (c *Catalog) CreateAsset(ctx context.Context, n NewAsset) (Asset, error) {
	if n.Visibility == "" {
		n.Visibility = playback.Public
	}
	if n.Placement.Mode == "" {
		n.Placement.Mode = objects.PlaceAll
	}
	request := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", n.Title, n.Visibility, n.Placement.Mode, n.Placement.Regions))
	var row db.Asset
	err := c.write(ctx, "create asset", func(q *db.Queries) error {
		if err := q.EnsureOwner(ctx, n.Owner); err != nil {
			return err
		}
		if n.IdempotencyKey != "" {
			seen, err := q.IdempotencyKey(ctx, n.Owner, n.IdempotencyKey)
			if err == nil {
				if [32]byte(seen.Request) != request {
					return ErrKeyReuse
				}
				row, err = q.GetAsset(ctx, seen.Asset)
				return err
			}
			if !errors.Is(err, errNoRows) {
				return err
			}
		}
		var err error
		row, err = q.InsertAsset(ctx, db.InsertAssetParams{ID: NewID(), Owner: n.Owner, Title: n.Title, Visibility: string(n.Visibility),
			Placement: string(n.Placement.Mode), Regions: nonNil(n.Placement.Regions), Region: n.Region})
		if err != nil {
			return err
		}
		if n.IdempotencyKey != "" {
			inserted, err := q.InsertIdempotencyKey(ctx, db.InsertIdempotencyKeyParams{Owner: n.Owner, Key: n.IdempotencyKey, Request: request[:], Asset: row.ID})
			if err != nil {
				return err
			}
			if inserted == 0 {
				return errRaced
			}
		}
		return emit(ctx, q, row, Event{Type: EventCreated}, outboxEntry{})
	})
	if errors.Is(err, errRaced) {
		return c.CreateAsset(ctx, n) // the other one has committed: this finds its asset
	}
	return assetOf(row), err
}

var errRaced = errors.New("another request with the same idempotency key came first")

// GetAsset returns an asset with its progress. An empty owner finds anybody's.
// Deleted assets and other owners' give ErrNotFound.
func (c *Catalog) GetAsset(ctx context.Context, owner, id string) (Asset, error) {
	var a Asset
	err := c.read(ctx, "asset "+id, func(ctx context.Context, q *db.Queries) error {
		row, err := q.GetAsset(ctx, id)
		if err != nil {
			return err
		}
		if row.DeletedAt != nil || owner != "" && row.Owner != owner {
			return ErrNotFound
		}
		a = assetOf(row)
		a.Progress, err = progress(ctx, q, id)
		return err
	})
	return a, err
}

// Limits of a listing's page.
const (
	DefaultPage = 50
	MaxPage     = 200
)

// ListAssets returns owner's assets, newest first, at most limit of them (0 for
// DefaultPage), those after cursor if it isn't empty, only those in state if it
// isn't empty. next is the cursor of the following page, empty at the end.
func (c *Catalog) ListAssets(ctx context.Context, owner string, state State, cursor string, limit int) (page []Asset, next string, err error) {
	if limit <= 0 {
		limit = DefaultPage
	}
	limit = min(limit, MaxPage)
	p := db.ListAssetsParams{Owner: owner, MaxRows: int32(limit + 1)}
	if state != "" {
		s := string(state)
		p.State = &s
	}
	if cursor != "" {
		before, id, err := decodeCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		p.Before, p.BeforeID = &before, id
	}
	err = c.read(ctx, "list assets", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.ListAssets(ctx, p)
		if err != nil {
			return err
		}
		if len(rows) > limit {
			rows = rows[:limit]
			next = encodeCursor(rows[limit-1])
		}
		for _, r := range rows {
			page = append(page, assetOf(r))
		}
		return nil
	})
	return page, next, err
}

// ErrCursor means that a listing's cursor isn't one of ours.
var ErrCursor = errors.New("cursor is not valid: pass the one the last page returned, or none")

func encodeCursor(a db.Asset) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(a.CreatedAt.UnixMicro(), 10) + " " + a.ID))
}

func decodeCursor(s string) (time.Time, string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return time.Time{}, "", ErrCursor
	}
	at, id, ok := strings.Cut(string(b), " ")
	us, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil || us < 0 || us > maxCursor {
		return time.Time{}, "", ErrCursor
	}
	return time.UnixMicro(us), id, nil
}

// maxCursor keeps a made-up cursor within what PostgreSQL can hold.
const maxCursor = 1 << 52

// UpdateAsset changes title and visibility where given. Viewers see it with the
// next playback record, which follows at once.
func (c *Catalog) UpdateAsset(ctx context.Context, owner, id string, title *string, visibility *playback.Visibility) (Asset, error) {
	var row db.Asset
	err := c.write(ctx, "update asset "+id, func(q *db.Queries) error {
		var err error
		if row, err = lockOwned(ctx, q, owner, id); err != nil {
			return err
		}
		if title != nil {
			row.Title = *title
		}
		if visibility != nil {
			row.Visibility = string(*visibility)
		}
		if err := q.UpdateAsset(ctx, row.Title, row.Visibility, id); err != nil {
			return err
		}
		return emit(ctx, q, row, Event{Type: EventChanged}, outboxEntry{})
	})
	return assetOf(row), err
}

// DeleteAsset flags an asset deleted: its work is cancelled, the next playback
// record, which follows at once, tells edges, as does a purge, which also has them
// drop what they hold, and its objects go after a grace.
// Deleting again gives ErrNotFound.
func (c *Catalog) DeleteAsset(ctx context.Context, owner, id string) error {
	return c.write(ctx, "delete asset "+id, func(q *db.Queries) error {
		a, err := lockOwned(ctx, q, owner, id)
		if err != nil {
			return err
		}
		if err := q.MarkDeleted(ctx, id); err != nil {
			return err
		}
		// First, so that no part that is on its way can start a run after this.
		if err := q.CloseUploadOfAsset(ctx, id); err != nil {
			return err
		}
		if err := q.CancelTasks(ctx, id, nil); err != nil {
			return err
		}
		if err := q.CancelRuns(ctx, id); err != nil {
			return err
		}
		run, err := newestRun(ctx, q, id)
		if err != nil {
			return err
		}
		if err := insertCleanup(ctx, q, a, run, "deleted", deleteGrace, contentPrefixes(id, run)...); err != nil {
			return err
		}
		if err := purgeAsset(ctx, q, id); err != nil {
			return err
		}
		return emit(ctx, q, a, Event{Type: EventDeleted}, outboxEntry{})
	})
}

// deleteGrace is how long objects outlive their asset's deletion, so that an
// edge that learns of it late serves a refusal and not errors.
const deleteGrace = 10 * time.Second

func newestRun(ctx context.Context, q *db.Queries, asset string) (int, error) {
	r, err := q.NewestRun(ctx, asset)
	if errors.Is(err, errNoRows) {
		return 0, nil
	}
	return int(r.N), err
}

func lockOwned(ctx context.Context, q *db.Queries, owner, id string) (db.Asset, error) {
	a, err := q.LockAsset(ctx, id)
	if err == nil && (a.DeletedAt != nil || owner != "" && a.Owner != owner) {
		return db.Asset{}, ErrNotFound
	}
	return a, err
}

func assetOf(r db.Asset) Asset {
	a := Asset{ID: r.ID, Owner: r.Owner, Title: r.Title, State: State(r.State), Visibility: playback.Visibility(r.Visibility), Region: r.Region,
		Placement: placementOf(r.Placement, r.Regions), SHA256: r.Sha256, CreatedAt: r.CreatedAt, ReceivedAt: r.ReceivedAt,
		PlayableAt: r.PlayableAt, ReadyAt: r.ReadyAt, FailedAt: r.FailedAt, DeletedAt: r.DeletedAt}
	if r.FailureCode != nil {
		a.Failure = &Failure{Code: *r.FailureCode, Detail: deref(r.FailureDetail)}
	}
	a.Size = deref(r.Size)
	a.Duration = time.Duration(deref(r.DurationMs)) * time.Millisecond
	a.CurrentRun = int(deref(r.CurrentRun))
	a.Poster = posterOf(r, hls.RunName(a.CurrentRun))
	return a
}

// posterOf is an asset's poster if it is of the run, empty if of one that was replaced since.
func posterOf(r db.Asset, run string) string {
	if poster := deref(r.Poster); strings.HasPrefix(poster, run+"/") {
		return poster
	}
	return ""
}

func placementOf(mode string, regions []string) objects.Placement {
	p := objects.Placement{Mode: objects.Mode(mode)}
	if len(regions) > 0 {
		p.Regions = regions
	}
	return p
}

func pinnedTo(regions []string) objects.Placement {
	if len(regions) == 0 {
		return objects.Placement{}
	}
	return objects.Placement{Mode: objects.PlacePinned, Regions: regions}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
