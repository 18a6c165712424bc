package api

import (
	"context"
	"errors"
	"time"

	"github.com/meridian-video/meridian/api/feed"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects/repair"
)

// hintPause follows a listener that ended.
const hintPause = time.Second

// hintRepair tells repair of assets that have something new, so that it reaches
// this region within seconds. What it misses the next pass finds.
func hintRepair(ctx context.Context, f *feed.Feed, r *repair.Repair) error {
	want := func(e catalog.Event) bool { _, ok := hintOf(e); return ok }
	for ctx.Err() == nil {
		l, _, _, err := f.Listen(0, want)
		if errors.Is(err, feed.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		for open := true; open; {
			select {
			case <-ctx.Done():
				open = false
			case e, ok := <-l.C():
				if open = ok; ok {
					whole, _ := hintOf(e.Event)
					r.Hint(e.Asset, whole)
				}
			}
		}
		l.Close()
		select {
		case <-ctx.Done():
		case <-time.After(hintPause):
			r.Soon() // it fell behind: whatever was missed
		}
	}
	return nil
}

// hintOf tells whether an event means new objects, and if of the whole stream or
// only a playback record.
func hintOf(e catalog.Event) (whole, ok bool) {
	switch e.Type {
	case catalog.EventPlayable, catalog.EventReady:
		return true, true
	case catalog.EventChanged, catalog.EventFailed, catalog.EventDeleted:
		return false, true
	}
	return false, false
}
