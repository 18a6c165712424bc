package hls

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// ExtrasVersion is the version of the extras index written today.
const ExtrasVersion = 1

// Extras lists the pictures of a run. It is written once under
// streams/{asset}/{run}/extra/index.json, after the pictures; paths are relative
// to it.
type Extras struct {
	V     int    `json:"v"`
	Asset string `json:"asset"`
	Run   string `json:"run"`
	// Posters, the largest first.
	Posters    []Poster    `json:"posters"`
	Storyboard *Storyboard `json:"storyboard,omitempty"`
	Preview    *Preview    `json:"preview,omitempty"`
}

// Poster is one frame as JPEG.
type Poster struct {
	Path   string `json:"path"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	// Time it is shown, in seconds.
	Time float64 `json:"time"`
}

// Storyboard is small pictures of the whole video in JPEG sprites, with a WebVTT
// file whose cues name their places (#xywh, Media Fragments URI 1.0).
type Storyboard struct {
	VTT     string   `json:"vtt"`
	Sprites []string `json:"sprites"`
	// Width and Height of one picture; a sprite has Columns × Rows of them.
	Width    int `json:"width"`
	Height   int `json:"height"`
	Columns  int `json:"columns"`
	Rows     int `json:"rows"`
	Pictures int `json:"pictures"`
}

// Preview is a few moments of the video as an endless animation without sound, in
// WebP.
type Preview struct {
	Path   string `json:"path"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	// Duration until it begins again, in seconds.
	Duration float64 `json:"duration"`
}

var extraPath = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}\.(jpg|vtt|webp)-[1-9][0-9]{0,8}$`)

// ValidExtra reports whether s is the file name of an extra: "poster-720.jpg-1".
func ValidExtra(s string) bool { return extraPath.MatchString(s) }

// Encode returns the index's canonical bytes.
func (e Extras) Encode() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// DecodeExtras parses and validates an index.
func DecodeExtras(b []byte) (Extras, error) {
	var e Extras
	if err := json.Unmarshal(b, &e); err != nil {
		return Extras{}, fmt.Errorf("extras: %w", err)
	}
	if err := e.Validate(); err != nil {
		return Extras{}, err
	}
	return e, nil
}

// Validate returns every problem of the index.
func (e Extras) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("extras: "+format, a...)) }
	if e.V != ExtrasVersion || !ValidAssetID(e.Asset) || !ValidRun(e.Run) {
		bad("version %d, asset %q, run %q: not valid", e.V, e.Asset, e.Run)
	}
	for _, p := range e.Posters {
		if !ValidExtra(p.Path) || p.Width < 1 || p.Height < 1 || p.Time < 0 {
			bad("poster %+v", p)
		}
	}
	if s := e.Storyboard; s != nil {
		if !ValidExtra(s.VTT) || s.Width < 1 || s.Height < 1 || s.Columns < 1 || s.Rows < 1 || s.Pictures < 1 {
			bad("storyboard %+v", *s)
		}
		for _, p := range s.Sprites {
			if !ValidExtra(p) {
				bad("sprite %q", p)
			}
		}
	}
	if p := e.Preview; p != nil && (!ValidExtra(p.Path) || p.Width < 1 || p.Height < 1 || !(p.Duration > 0)) {
		bad("preview %+v", *p)
	}
	return errors.Join(errs...)
}
