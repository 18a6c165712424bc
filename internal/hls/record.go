package hls

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// RecordVersion is the version of the record format written today.
const RecordVersion = 1

// Record says which segments one committed chunk added to the renditions of a
// track. Records of a track are dense from chunk 0; each is written once under
// streams/{asset}/{run}/{track}/records/{chunk}.json.
type Record struct {
	V     int    `json:"v"`
	Asset string `json:"asset"`
	// Run is "r1", "r2", ….
	Run string `json:"run"`
	// Track is what was encoded together: "v0", "a0".
	Track string `json:"track"`
	// Chunk is the position in the track, from 0.
	Chunk int `json:"chunk"`
	// Attempt fences the segments' keys: they lie under {chunk}-{attempt}/.
	Attempt int `json:"attempt"`
	// Start is the chunk's first presentation time, in Timescale units.
	Start int64 `json:"start"`
	// Timescale is units per second of Start and of every duration.
	Timescale int64 `json:"timescale"`
	// Target is EXT-X-TARGETDURATION in seconds, the same in all records of a run's track.
	Target int `json:"target"`
	// Last marks the track's final record.
	Last bool `json:"last"`
	// Renditions by id: all have the same number of segments.
	Renditions map[string]RenditionSegments `json:"renditions"`
}

// RenditionSegments are the segments a record adds to one rendition.
type RenditionSegments struct {
	// Init is the file name of the initialisation segment: "init-{sha8}.mp4"; empty
	// for text, whose segments are WebVTT.
	Init string `json:"init"`
	// Segments in order; segment i is {chunk}-{attempt}/{i}.m4s, or .vtt.
	Segments []Segment `json:"segments"`
}

// Segment is one media segment.
type Segment struct {
	// Duration in units of the record's timescale.
	Duration int64 `json:"dur"`
	Bytes    int64 `json:"bytes"`
	// SHA256 of the object, lower-case hex.
	SHA256 string `json:"sha256"`
	// Key is the length in bytes, from the segment's beginning, of its first frame
	// with all that is needed to show it; 0 for sound and text, and where unknown.
	Key int64 `json:"key,omitempty"`
}

var hash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ValidAssetID reports whether s has the form of an asset id: 128 bits in
// lower-case base32 without padding.
func ValidAssetID(s string) bool {
	for i := range len(s) {
		if c := s[i]; !lower(c) && (c < '2' || c > '7') {
			return false
		}
	}
	return len(s) == 26
}

// These forms are looked at with every request of a viewer: expressions would be a
// twentieth of answering it.

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool { return c >= '0' && c <= '9' }

// ValidRun reports whether s has the form of a run id.
func ValidRun(s string) bool {
	if len(s) < 2 || len(s) > 7 || s[0] != 'r' || s[1] == '0' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if !digit(s[i]) {
			return false
		}
	}
	return true
}

// ValidName reports whether s can be a track or rendition id.
func ValidName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !lower(c) && (i == 0 || !digit(c) && c != '-') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 32
}

// ValidInit reports whether s is the file name of an initialisation segment.
func ValidInit(s string) bool {
	hex, ok := strings.CutPrefix(s, "init-")
	if !ok || len(hex) != 8+len(".mp4") || hex[8:] != ".mp4" {
		return false
	}
	for i := range 8 {
		if c := hex[i]; !digit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isText reports whether a track's name says that it is of text.
func isText(track string) bool { return strings.HasPrefix(track, "t") }

// SegmentPath is the path below a rendition of its i-th segment in the record.
func (r Record) SegmentPath(rendition string, i int) string {
	return string(appendSegmentPath(nil, r.Chunk, r.Attempt, i, r.Renditions[rendition].ext()))
}

// Inits are the names of the renditions' initialisation segments, by rendition.
func (r Record) Inits() map[string]string {
	out := make(map[string]string, len(r.Renditions))
	for id, rs := range r.Renditions {
		out[id] = rs.Init
	}
	return out
}

func (rs RenditionSegments) ext() string {
	if rs.Init == "" {
		return textExt
	}
	return mediaExt
}

// RunName is the id of an asset's n-th run.
func RunName(n int) string { return "r" + strconv.Itoa(n) }

// Encode returns the record's canonical bytes: the same record always gives
// the same bytes, so that a repeated PUT is idempotent.
func (r Record) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// DecodeRecord parses and validates a record.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("record: %w", err)
	}
	if err := r.Validate(); err != nil {
		return Record{}, err
	}
	return r, nil
}

// Limits that keep a hostile or broken record from costing memory.
const (
	maxChunk    = 99999
	maxSegments = 99999
)

// Validate returns every problem of the record.
func (r Record) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("record: "+format, a...)) }
	if r.V != RecordVersion {
		bad("version %d: want %d", r.V, RecordVersion)
	}
	if !ValidAssetID(r.Asset) || !ValidRun(r.Run) || !ValidName(r.Track) {
		bad("asset %q, run %q, track %q: not valid ids", r.Asset, r.Run, r.Track)
	}
	if r.Chunk < 0 || r.Chunk > maxChunk || r.Attempt < 1 {
		bad("chunk %d, attempt %d: out of range", r.Chunk, r.Attempt)
	}
	if r.Timescale < 1 || r.Start < 0 {
		bad("timescale %d, start %d: out of range", r.Timescale, r.Start)
	}
	if r.Target < 1 {
		bad("target duration %d: want at least 1", r.Target)
	}
	if len(r.Renditions) == 0 {
		bad("no renditions")
	}
	count := -1
	for id, rs := range r.Renditions {
		if !ValidName(id) || !ValidInit(rs.Init) && !(rs.Init == "" && isText(r.Track)) {
			bad("rendition %q, init %q: not valid names", id, rs.Init)
		}
		if count >= 0 && len(rs.Segments) != count {
			bad("rendition %q has %d segments, another has %d", id, len(rs.Segments), count)
		}
		count = len(rs.Segments)
		if count == 0 || count > maxSegments {
			bad("rendition %q: %d segments out of range", id, count)
		}
		for i, s := range rs.Segments {
			if s.Duration < 1 || s.Bytes < 1 || !hash.MatchString(s.SHA256) || s.Key < 0 || s.Key > s.Bytes {
				bad("rendition %q segment %d: duration %d, bytes %d, sha256 %q, key %d", id, i, s.Duration, s.Bytes, s.SHA256, s.Key)
			}
			// RFC 8216bis 4.4.3.1: a segment's rounded duration must not exceed the target.
			if r.Timescale > 0 && (2*s.Duration+r.Timescale)/(2*r.Timescale) > int64(r.Target) {
				bad("rendition %q segment %d: longer than the target duration %d s", id, i, r.Target)
			}
		}
	}
	return errors.Join(errs...)
}

// End is the presentation time after the record's last segment, in Timescale units.
func (r Record) End() int64 {
	end := r.Start
	for _, rs := range r.Renditions {
		for _, s := range rs.Segments {
			end += s.Duration
		}
		break
	}
	return end
}
