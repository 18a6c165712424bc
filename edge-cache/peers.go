package edgecache

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/peer"
	"github.com/meridian-video/meridian/internal/objects"
)

// peer answers another edge of the region. It obeys the asset's record as for a
// viewer, reads from the stores alone, and answers soon: what takes longer is
// brought all the same, and the other edge does without.
func (h *handler) peer(w http.ResponseWriter, r *http.Request, a *answer, path string) error {
	a.target.kind = kindPeer
	if h.origins.peers == nil {
		return errPath
	}
	if _, err := h.peerKey.Check(r.Header.Get(peer.ProofField), path, time.Now()); err != nil {
		return errNotPeer
	}
	t, ok := parsePath("/v/-/" + strings.TrimPrefix(path, peer.Prefix))
	if !ok || !t.immutable() {
		return errPath
	}
	a.target, a.target.kind = t, kindPeer
	w.Header().Set(peer.LoadField, h.meter.Header()[0])
	ctx, cancel := context.WithTimeout(r.Context(), peer.Wait)
	defer cancel()
	rec, err := h.guard.finder.Newest(ctx, t.asset)
	switch {
	case err != nil:
		return late(ctx, err)
	case rec.Gone() || h.guard.purged.void(rec):
		return errGone
	case !rec.Placement.Allows(h.sites.here.Name):
		return errNotFound
	}
	key := objects.SegmentKey(t.asset, t.run, t.rendition, t.object)
	o, out, err := h.cache.Get(ctx, key, h.origins.source(key, rec.Placement))
	a.cache = label(out)
	if err != nil {
		return late(ctx, err)
	}
	defer o.Release()
	info := o.Info()
	if o.Direct() || info.SHA256 == "" {
		return errNotFound // it is nothing to share
	}
	head := w.Header()
	head.Set(peer.SumField, info.SHA256)
	head.Set(peer.FetchedField, strconv.FormatInt(info.Fetched.UnixMilli(), 10))
	head.Set(peer.OriginField, info.Origin)
	head.Set("Cache-Status", h.cacheStatus(out))
	mime, _ := t.delivery()
	return serveContent(w, r, objectContent(o, mime, "no-store"), a)
}

// late tells an object that wasn't found out about in time from one that isn't there.
func late(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errNotYet
	}
	return err
}

// immutable reports whether the target is an object that never changes.
func (t target) immutable() bool {
	return t.kind == kindSegment || t.kind == kindInit || t.kind == kindExtra
}

// peerLabel is how metrics, logs and Cache-Status name what another edge gave.
const peerLabel = "peer"

func fromPeer(o *cache.Object, out cache.Outcome) bool {
	return out.Tier == cache.Origin && !out.Collapsed && o.Info().Peer
}
