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
	want := func(e catalog.Event) bool { return hintOf(e) != nothing }
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
					switch hintOf(e.Event) {
					case record:
						r.Hint(e.Asset, false)
					case stream:
						r.Hint(e.Asset, true)
					case growth:
						r.Grew(e.Asset)
					}
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

// news is what an event says about an asset's objects.
type news int

const (
	nothing news = iota
	record       // there is a new playback record
	growth       // an encode has brought more
	stream       // there may be anything
)

func hintOf(e catalog.Event) news {
	if e.Type == catalog.EventChanged && e.Run != "" {
		return stream // its extras are there
	}
	switch e.Type {
	case catalog.EventPlayable, catalog.EventReady:
		return stream
	case catalog.EventProgress:
		return growth
	case catalog.EventChanged, catalog.EventFailed, catalog.EventDeleted:
		return record
	}
	return nothing
}
