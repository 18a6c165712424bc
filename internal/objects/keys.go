package objects

import (
	"fmt"
	"strconv"
	"strings"
)

// Keys of the platform's objects. Numbers in keys have a fixed width, so that
// listing order is numeric order.

// HealthSize is the size of a region's health object in bytes.
const HealthSize = 64 << 10

// PartKey is one uploaded part of a source; id fences it.
func PartKey(asset string, n int, id string) string {
	return fmt.Sprintf("sources/%s/parts/%05d-%s", asset, n, id)
}

// SourcePrefix holds everything of an asset's source.
func SourcePrefix(asset string) string { return "sources/" + asset + "/" }

// RemuxKey is part n of a source remuxed by one attempt.
func RemuxKey(asset, run string, n, attempt int) string {
	return fmt.Sprintf("work/%s/%s/remux/%05d-%d", asset, run, n, attempt)
}

// WorkPrefix holds a run's intermediate objects, deleted once it is complete.
func WorkPrefix(asset, run string) string { return "work/" + asset + "/" + run + "/" }

// StreamPrefix holds everything published of an asset.
func StreamPrefix(asset string) string { return "streams/" + asset + "/" }

// RunPrefix holds everything published of one run.
func RunPrefix(asset, run string) string { return "streams/" + asset + "/" + run + "/" }

// InitKey is an initialisation segment; name is init-{sha8}.mp4.
func InitKey(asset, run, rendition, name string) string {
	return "streams/" + asset + "/" + run + "/" + rendition + "/" + name
}

// SegmentKey is one media segment; path is hls.SegmentPath.
func SegmentKey(asset, run, rendition, path string) string {
	return "streams/" + asset + "/" + run + "/" + rendition + "/" + path
}

// RecordKey is a track's record of one chunk.
func RecordKey(asset, run, track string, chunk int) string {
	return fmt.Sprintf("streams/%s/%s/%s/records/%05d.json", asset, run, track, chunk)
}

// MasterKey is a run's n-th stored master playlist.
func MasterKey(asset, run string, n int64) string {
	return fmt.Sprintf("streams/%s/%s/master/%d.m3u8", asset, run, n)
}

// ExtraKey is an extra of a run, such as a poster, made by one attempt.
func ExtraKey(asset, run, name string, attempt int) string {
	return StreamPrefix(asset) + ExtraPath(run, fmt.Sprintf("%s-%d", name, attempt))
}

// ExtrasKey is the index of a run's extras.
func ExtrasKey(asset, run string) string {
	return StreamPrefix(asset) + ExtrasPath(run)
}

// ExtrasPath is the index below the asset's objects.
func ExtrasPath(run string) string { return ExtraPath(run, "index.json") }

// ExtraPath is where a path of the index leads, below the asset's objects.
func ExtraPath(run, path string) string { return run + "/extra/" + path }

// HealthKey is the object router probes fetch through a region's edges.
func HealthKey(region string) string { return "health/" + region + ".bin" }

// The journals: sequences of numbered, write-once objects, signed or sealed.
const (
	KeysJournal         = "keys/"
	PurgesJournal       = "purges/"
	RoutingJournal      = "routing/"
	CertificatesJournal = "certificates/"
)

// Journals returns the journals that every region has whole.
func Journals() []string {
	return []string{KeysJournal, PurgesJournal, RoutingJournal, CertificatesJournal}
}

// PlaybackJournal is the journal of an asset's playback records.
func PlaybackJournal(asset string) string { return "streams/" + asset + "/playback/" }

// JournalKey is entry n of a journal.
func JournalKey(journal string, n int64) string { return fmt.Sprintf("%s%010d.json", journal, n) }

// JournalNumber is the entry number in a journal's key; ok is false for other keys.
func JournalNumber(journal, key string) (n int64, ok bool) {
	s, ok := strings.CutPrefix(key, journal)
	if !ok {
		return 0, false
	}
	s, ok = strings.CutSuffix(s, ".json")
	if !ok || len(s) != 10 {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0
}
