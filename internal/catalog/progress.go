package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/meridian-video/meridian/internal/catalog/db"
)

func progress(ctx context.Context, q *db.Queries, asset string) (Progress, error) {
	row, err := q.AssetProgress(ctx, asset)
	if err != nil {
		return Progress{}, err
	}
	p := Progress{BytesReceived: row.BytesReceived, BytesTotal: row.BytesTotal, FramesDone: row.FramesDone, FramesTotal: row.FramesTotal}
	var tracks []pace
	if err := json.Unmarshal(row.Tracks, &tracks); err != nil {
		return Progress{}, fmt.Errorf("pace of %s: %w", asset, err)
	}
	if seconds, ok := left(tracks); ok && p.FramesTotal > 0 {
		p.SecondsLeft = &seconds
	}
	return p, nil
}

// pace is how far the tasks of a run's track have come. Frames of a worker that was
// lost stay counted until another one has come as far.
type pace struct {
	Track       string
	Done, Total int64
	// Pixels of a frame, in all rungs.
	Pixels float64
	// Since the first task began, in seconds, and what all of them took since they
	// began, pauses included; nil before.
	Since, Took *float64
}

// copiedTrack is the one whose frames are the source's own: its pace tells nothing of others.
const copiedTrack = "vc"

// left is how many seconds a run goes on if each track goes on as it went, and as many
// tasks are under way at once as were. A track without frames is taken to be as
// slow as the slowest other one, pixel for pixel.
func left(tracks []pace) (seconds int64, ok bool) {
	since, took, perPixel := 0.0, 0.0, 0.0
	open := false
	for _, t := range tracks {
		open = open || t.Done < t.Total
		if t.Since == nil || t.Took == nil {
			continue
		}
		since, took = max(since, *t.Since), took+*t.Took
		if t.Done > 0 && t.Pixels > 0 && t.Track != copiedTrack {
			perPixel = max(perPixel, *t.Took/float64(t.Done)/t.Pixels)
		}
	}
	if !open {
		return 0, len(tracks) > 0
	}
	if since <= 0 || took <= 0 || perPixel <= 0 {
		return 0, false
	}
	work := 0.0
	for _, t := range tracks {
		perFrame := perPixel * t.Pixels
		if t.Done > 0 && t.Took != nil {
			perFrame = *t.Took / float64(t.Done)
		}
		work += perFrame * float64(t.Total-t.Done)
	}
	return int64(math.Ceil(work * since / took)), true
}
