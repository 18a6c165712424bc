package playback

import (
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// Visibility of an asset.
type Visibility string

// The visibilities.
const (
	Public   Visibility = "public"
	Unlisted Visibility = "unlisted"
	// Private assets play only with a playback token.
	Private Visibility = "private"
)

// Record is one version of what may be played of an asset.
type Record struct {
	Asset string `json:"asset"`
	// N numbers the versions from 1, without gaps.
	N int64 `json:"n"`
	// State is the asset's: "playable" or "ready".
	State string `json:"state"`
	// Run is the current run ("r1"), Master its newest stored master playlist.
	Run        string            `json:"run"`
	Master     int64             `json:"master"`
	Visibility Visibility        `json:"visibility"`
	Rules      token.Rules       `json:"rules"`
	Placement  objects.Placement `json:"placement"`
	// Title and Poster are left out of pinned assets' records, which go everywhere.
	Title string `json:"title,omitempty"`
	// Poster is the path of a picture below the asset's objects, run first.
	Poster string `json:"poster,omitempty"`
	// Duration in seconds.
	Duration float64 `json:"duration"`
	// Deleted and TakenDown end playback; the record stays as a tombstone.
	Deleted   bool `json:"deleted,omitempty"`
	TakenDown bool `json:"taken_down,omitempty"`
}

// Gone reports whether nothing of the asset may be served any more.
func (r Record) Gone() bool { return r.Deleted || r.TakenDown }

const recordType = "meridian-playback"

// maxRecord bounds the signed record's size in bytes.
const maxRecord = 64 << 10

// Sign returns the record's bytes as they are stored, signed by a record key.
func Sign(r Record, s *token.Signer) ([]byte, error) {
	if !hls.ValidAssetID(r.Asset) || r.N < 1 {
		return nil, fmt.Errorf("playback record: asset %q, n %d: want an asset id and a positive number", r.Asset, r.N)
	}
	if r.Placement.Pinned() {
		r.Title, r.Poster = "", ""
	}
	return token.Sign(r, recordType, s)
}

// Verify checks and decodes a stored record.
func Verify(b []byte, ks *token.KeySet, now time.Time) (Record, error) {
	var r Record
	if err := token.Verify(b, recordType, ks, token.UseRecord, now, &r); err != nil {
		return Record{}, fmt.Errorf("playback record: %w", err)
	}
	if !hls.ValidAssetID(r.Asset) || r.N < 1 || !r.Gone() && (!hls.ValidRun(r.Run) || r.Master < 1) {
		return Record{}, fmt.Errorf("playback record of %q: %w", r.Asset, token.ErrForged)
	}
	return r, nil
}
