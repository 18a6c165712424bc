package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A segment's index is checkpointed beside it when it is full and when the log
// is closed. After a crash the segment that was being written has none, or an
// old one: it is scanned.
const indexMagic = 0x4d494458 // "MIDX"

const indexSuffix = ".idx"

func (d *diskLog) indexPath(id uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%016x"+indexSuffix, id))
}

// checkpoint writes a segment's index: magic, the segment's size, count, then
// key length, key, offset, header and body length each, and a crc of it all.
func (d *diskLog) checkpoint(seg *segment) error {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, indexMagic)
	b = le.AppendUint64(b, uint64(seg.size))
	d.mu.Lock()
	var live []string
	for _, key := range seg.keys {
		if p := d.index[key]; p != nil && p.seg == seg {
			live = append(live, key)
		}
	}
	b = le.AppendUint32(b, uint32(len(live)))
	for _, key := range live {
		p := d.index[key]
		b = le.AppendUint16(b, uint16(len(key)))
		b = append(b, key...)
		b = le.AppendUint64(b, uint64(p.at))
		b = le.AppendUint32(b, uint32(p.head))
		b = le.AppendUint64(b, uint64(p.size))
	}
	d.mu.Unlock()
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	tmp := d.indexPath(seg.id) + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.indexPath(seg.id))
}

type indexEntry struct {
	key  string
	at   int64
	head int32
	size int64
}

// decodeIndex parses a checkpoint of a segment that is size bytes long.
func decodeIndex(b []byte, size, maxObject int64) ([]indexEntry, bool) {
	le := binary.LittleEndian
	if len(b) < 20 || le.Uint32(b) != indexMagic || int64(le.Uint64(b[4:])) != size {
		return nil, false
	}
	body, sum := b[:len(b)-4], le.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, false
	}
	count, rest := int(le.Uint32(b[12:])), body[16:]
	if count > len(rest)/22 {
		return nil, false
	}
	out := make([]indexEntry, 0, count)
	for range count {
		if len(rest) < 2 {
			return nil, false
		}
		n := int(le.Uint16(rest))
		if rest = rest[2:]; n == 0 || n > maxKey || len(rest) < n+20 {
			return nil, false
		}
		e := indexEntry{key: string(rest[:n]), at: int64(le.Uint64(rest[n:])), head: int32(le.Uint32(rest[n+8:])), size: int64(le.Uint64(rest[n+12:]))}
		rest = rest[n+20:]
		if e.at < 0 || e.head < headerFixed || e.size < 0 || e.size > maxObject || e.at > size-int64(e.head)-e.size {
			return nil, false
		}
		out = append(out, e)
	}
	return out, len(rest) == 0
}

// files finds the directory's segments, oldest first, and what writing an index has
// left over.
func (d *diskLog) files() (ids []uint64, left []string, err error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if hex, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			if id, err := strconv.ParseUint(hex, 16, 64); err == nil && len(hex) == 16 {
				ids = append(ids, id)
			}
		} else if strings.HasSuffix(e.Name(), indexSuffix+".tmp") {
			left = append(left, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, left, nil
}

// load opens every segment in the directory, oldest first, and makes room if
// the log was larger before.
func (d *diskLog) load() error {
	ids, left, err := d.files()
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
			return err
		}
	}
	for _, id := range ids {
		d.nextID = id + 1
		if err := d.loadSegment(id); err != nil {
			return err
		}
	}
	// The next record goes to a new segment: an old one's end may be in doubt.
	for d.bytes > d.capacity {
		if err := d.drop(d.segments[0]); err != nil {
			return err
		}
	}
	return nil
}

func (d *diskLog) loadSegment(id uint64) error {
	f, err := os.OpenFile(d.segmentPath(id), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	seg := newSegment(id, f)
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	list, ok := []indexEntry(nil), false
	if b, err := os.ReadFile(d.indexPath(id)); err == nil {
		list, ok = decodeIndex(b, st.Size(), d.maxObject)
	}
	// What comes after the last record that is whole stays: a reader from before the log
	// was opened again may have it in a socket, where cutting the file off would change it.
	seg.size = st.Size()
	if !ok {
		if list, _, err = scan(f, st.Size(), d.maxObject); err != nil {
			return errors.Join(fmt.Errorf("scan %s: %w", f.Name(), err), f.Close())
		}
	}
	if len(list) == 0 {
		_ = os.Remove(d.indexPath(id)) // may not exist
		return errors.Join(f.Close(), os.Remove(f.Name()))
	}
	for _, e := range list {
		d.index[e.key] = &place{seg: seg, at: e.at, head: e.head, size: e.size}
		seg.keys = append(seg.keys, e.key)
	}
	d.segments, d.bytes = append(d.segments, seg), d.bytes+seg.size
	if !ok {
		return d.checkpoint(seg)
	}
	return nil
}

// scan reads the headers of a segment's records up to the first that isn't
// whole, and returns where that starts. Bodies are checked when they are read.
func scan(r io.ReaderAt, size, maxObject int64) (list []indexEntry, end int64, err error) {
	first := make([]byte, 12)
	for end < size {
		if _, err := r.ReadAt(first, end); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			return nil, 0, err
		}
		n, err := headerLen(first, maxObject)
		if err != nil {
			break
		}
		b := make([]byte, n)
		if _, err := r.ReadAt(b, end); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			return nil, 0, err
		}
		h, err := decodeHeader(b, maxObject)
		next := end + aligned(int64(n)+h.info.Size)
		if err != nil || next > size {
			break
		}
		list = append(list, indexEntry{h.key, end, int32(n), h.info.Size})
		end = next
	}
	return list, end, nil
}
