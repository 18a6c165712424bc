package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Holding is what the catalog knows of an asset that a store holds objects of.
type Holding struct {
	Placement objects.Placement
	// Gone: deleted or failed. Its content is not to be copied any more.
	Gone bool
}

// Holdings returns what is known of the assets; those the catalog doesn't know
// are missing. It asks the nearest server, and the leader for what that doesn't know.
func (c *Catalog) Holdings(ctx context.Context, ids []string) (map[string]Holding, error) {
	out := make(map[string]Holding, len(ids))
	ask := func(ids []string) func(context.Context, *db.Queries) error {
		return func(ctx context.Context, q *db.Queries) error {
			rows, err := q.Holdings(ctx, ids)
			for _, r := range rows {
				out[r.ID] = Holding{Placement: placementOf(r.Placement, r.Regions), Gone: r.Gone}
			}
			return err
		}
	}
	if err := c.read(ctx, "holdings", ask(ids)); err != nil {
		return out, err
	}
	unknown := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, known := out[id]; return known })
	if len(unknown) == 0 {
		return out, nil
	}
	return out, c.direct(ctx, "holdings", ask(unknown))
}

// Remains is what the leader says about the objects of an asset that should be gone.
type Remains struct {
	// Tasks are clean-ups that have ended, by id, with the prefixes they emptied.
	Tasks map[string][]string
}

// Covers returns the ended clean-up that should have removed the key, empty if there is none.
func (r Remains) Covers(key string) string {
	for task, prefixes := range r.Tasks {
		for _, p := range prefixes {
			if strings.HasPrefix(key, p) {
				return task
			}
		}
	}
	return ""
}

// Remains returns, from the leader, what was cleaned up of each asset. Assets it
// has never heard of are missing.
func (c *Catalog) Remains(ctx context.Context, ids []string) (map[string]Remains, error) {
	out := make(map[string]Remains, len(ids))
	err := c.direct(ctx, "remains", func(ctx context.Context, q *db.Queries) error {
		known, err := q.Holdings(ctx, ids)
		if err != nil {
			return err
		}
		for _, r := range known {
			out[r.ID] = Remains{}
		}
		rows, err := q.DoneCleanups(ctx, ids)
		for _, r := range rows {
			var spec cleanupSpec
			if err := json.Unmarshal(r.Spec, &spec); err != nil {
				return fmt.Errorf("clean-up %s: %w", r.ID, err)
			}
			m := out[r.Asset]
			if m.Tasks == nil {
				m.Tasks = map[string][]string{}
			}
			m.Tasks[r.ID] = spec.Prefixes
			out[r.Asset] = m
		}
		return err
	})
	return out, err
}

// RepeatCleanup has an ended clean-up done once more: objects it removed have
// come back, from a store that was away or a copy that was under way.
func (c *Catalog) RepeatCleanup(ctx context.Context, task string) error {
	return c.direct(ctx, "repeat "+task, func(ctx context.Context, q *db.Queries) error {
		_, err := q.RepeatCleanup(ctx, task)
		return err
	})
}

// ChunkWinner returns, from the leader, the attempt whose objects count for a
// rendition's chunk, ErrNotFound while none has been committed.
func (c *Catalog) ChunkWinner(ctx context.Context, asset string, run int, rendition string, chunk int) (int, error) {
	var attempt int
	err := c.direct(ctx, fmt.Sprintf("winner of %s/%s/%s/%05d", asset, hls.RunName(run), rendition, chunk), func(ctx context.Context, q *db.Queries) error {
		n, err := q.ChunkWinner(ctx, db.ChunkWinnerParams{Asset: asset, Run: int32(run), Rendition: rendition, Chunk: int32(chunk)})
		attempt = int(n)
		return err
	})
	return attempt, err
}

// PartWinner returns, from the leader, the id of a source's n-th part,
// ErrNotFound while there is none.
func (c *Catalog) PartWinner(ctx context.Context, asset string, n int) (string, error) {
	var id string
	err := c.direct(ctx, fmt.Sprintf("part %d of %s", n, asset), func(ctx context.Context, q *db.Queries) error {
		var err error
		id, err = q.PartID(ctx, asset, int32(n))
		return err
	})
	return id, err
}

// inSequence is the number allocated last, 0 before the first.
func inSequence(ctx context.Context, q *db.Queries, scope string) (int64, error) {
	n, err := q.InSequence(ctx, scope)
	if errors.Is(err, errNoRows) {
		return 0, nil
	}
	return n, err
}
