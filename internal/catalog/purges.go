package catalog

import (
	"context"
	"slices"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
)

// purgesLane is the outbox lane of the purges journal, and the scope of its
// numbers. Rows of one lane are published one after the other, so entry n + 1 is
// PUT after entry n.
const purgesLane = "purges"

// revokingScope remembers the newest purge that revokes tokens.
const revokingScope = "purges/revoking"

// purgeEffect is a purge that becomes an entry of the journal once its turn has come.
type purgeEffect struct {
	Assets []journal.Void `json:"assets,omitempty"`
	JTIs   []string       `json:"jtis,omitempty"`
}

// purgeAsset asks for a purge of everything the asset's playback records have
// allowed so far. The caller holds the asset's lock: the next record comes after it.
func purgeAsset(ctx context.Context, q *db.Queries, asset string) error {
	n, err := inSequence(ctx, q, "playback/"+asset)
	if err != nil || n == 0 {
		return err // no edge was ever told of it
	}
	return insertPurge(ctx, q, purgeEffect{Assets: []journal.Void{{Asset: asset, N: n}}})
}

func insertPurge(ctx context.Context, q *db.Queries, p purgeEffect) error {
	return insertOutbox(ctx, q, purgesLane, nil, nil, outboxEntry{effect: effect{Purge: &p}})
}

// maxRevoked bounds the tokens of one purge, and so its size.
const maxRevoked = 1000

// RevokeTokens ends playback tokens of an owner's asset and the sessions they
// started, by their jti, at every edge. Tokens of other assets stay valid, also
// if they have the same jti. An empty owner means anybody's asset.
func (c *Catalog) RevokeTokens(ctx context.Context, owner, asset string, jtis []string) error {
	return c.write(ctx, "revoke tokens of "+asset, func(q *db.Queries) error {
		if _, err := lockOwned(ctx, q, owner, asset); err != nil {
			return err
		}
		for revoked := range slices.Chunk(jtis, maxRevoked) {
			names := make([]string, len(revoked))
			for i, jti := range revoked {
				names[i] = journal.TokenName(asset, jti)
			}
			if err := insertPurge(ctx, q, purgeEffect{JTIs: names}); err != nil {
				return err
			}
		}
		return nil
	})
}

// purge gives a purge its number and fixes its bytes. The number is allocated
// under the lock on its sequence and before the row's own id, so rows of the lane
// are in the order of their numbers.
func (p *Publisher) purge(ctx context.Context, q *db.Queries, e purgeEffect) error {
	n, err := q.NextInSequence(ctx, purgesLane)
	if err != nil {
		return err
	}
	revoking, err := inSequence(ctx, q, revokingScope)
	if err != nil {
		return err
	}
	if len(e.JTIs) > 0 {
		if err := q.SetSequence(ctx, revokingScope, n); err != nil {
			return err
		}
	}
	body, err := journal.SignPurge(journal.Purge{N: n, At: time.Now().UTC().Truncate(time.Second), Assets: e.Assets, JTIs: e.JTIs, Revoking: revoking}, p.Signer)
	if err != nil {
		return err
	}
	return insertOutbox(ctx, q, purgesLane, nil, nil, outboxEntry{objects: []Object{{Key: objects.JournalKey(objects.PurgesJournal, n), Body: body}}})
}
