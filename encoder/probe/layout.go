package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"github.com/meridian-video/meridian/encoder/source"
)

// Kind of a container whose frames are known only as they come.
type Kind string

// The kinds of Layout.
const (
	// TransportStream is MPEG-TS with packets of 188 bytes (ISO/IEC 13818-1).
	TransportStream Kind = "mpegts"
	// Matroska is Matroska or WebM, in clusters (RFC 9559).
	Matroska Kind = "matroska"
	// Fragmented is MP4 in fragments (ISO/IEC 14496-12, 8.8).
	Fragmented Kind = "fragmented"
)

// Layout is how such a file is divided: a head, then units that can be read alone
// after the head. A unit is a cluster, a fragment, or what begins at a packet.
type Layout struct {
	Kind Kind `json:"kind"`
	// Head is where the first unit begins.
	Head int64 `json:"head"`
	// Tables are a transport stream's packets that tell what its streams are.
	Tables []byte `json:"tables,omitempty"`
}

// errOther: the file isn't of a kind that is read as it comes.
var errOther = errors.New("not a file that is read as it comes")

// Bounds of heads.
const (
	maxHead   = 32 << 20
	maxTables = 64
	tsPacket  = 188
	// tablesWithin is where the tables of a transport stream must be; they are
	// repeated ten times a second.
	tablesWithin = 1 << 20
)

// ReadLayout looks at the beginning of a file, which may be arriving. needs is how many
// bytes must be there to know more, when ok is false; 0 if the file is of no such kind.
func ReadLayout(ctx context.Context, f File) (l Layout, needs int64, ok bool, err error) {
	there := readable(f)
	r := walker{ctx: ctx, f: f, end: there}
	first, err := r.bytes(0, 12)
	switch {
	case err != nil:
	case first[0] == syncByte:
		l, err = r.transportStream()
	case binary.BigEndian.Uint32(first) == ebmlHeader:
		l, err = r.matroska()
	case string(first[4:8]) == "ftyp" || string(first[4:8]) == "styp":
		l, err = r.fragmented()
	default:
		err = errOther
	}
	switch {
	case errors.Is(err, errBeyond) && there < min(f.Size(), maxHead):
		return Layout{}, min(f.Size(), max(there+1, r.wanted)), false, nil
	case errors.Is(err, errOther), errors.Is(err, errBeyond):
		return Layout{}, 0, false, nil
	}
	return l, 0, err == nil, err
}

// Pieces show the head and what lies from one unit to the beginning of another.
// Offsets stay what they are in the file, but for transport streams, which have none.
func (l Layout) Pieces(from, to int64) []source.Piece {
	if l.Kind == TransportStream {
		return []source.Piece{{Bytes: l.Tables}, {From: from, Size: to - from}}
	}
	var gap []byte
	switch left := from - l.Head; {
	case left <= 0:
		return []source.Piece{{Size: to}}
	case l.Kind == Matroska && left < 9:
		// A Void element (RFC 8794, 11.3.2); what it leaves out is five bytes at least.
		gap = []byte{ebmlVoid, 0x80 | byte(left-2)}
	case l.Kind == Matroska:
		// One with a size of eight bytes.
		gap = binary.BigEndian.AppendUint64([]byte{ebmlVoid}, 1<<56|uint64(left-9))
	case left < 16:
		gap = append(binary.BigEndian.AppendUint32(nil, uint32(left)), "free"...)
	default:
		gap = append([]byte{0, 0, 0, 1}, "free"...)
		gap = binary.BigEndian.AppendUint64(gap, uint64(left))
	}
	after := l.Head + int64(len(gap))
	return []source.Piece{{Size: l.Head}, {Bytes: gap}, {From: after, Size: to - after}}
}

// Shift is what is added to an offset in the file to have it in what Pieces show.
func (l Layout) Shift(from int64) int64 {
	if l.Kind == TransportStream {
		return int64(len(l.Tables)) - from
	}
	return 0
}

// Units are where the units begin from one of them on, and where the last one that
// is complete before end ends. Those of transport streams aren't listed.
func (l Layout) Units(ctx context.Context, f File, from, end int64) (starts []int64, complete int64, err error) {
	r := walker{ctx: ctx, f: f, end: end}
	complete = from
	for at := from; at < end; {
		var next int64
		var unit bool
		switch l.Kind {
		case Matroska:
			next, unit, err = r.element(at)
		case Fragmented:
			next, unit, err = r.box(at)
		default:
			return nil, end, nil
		}
		if errors.Is(err, errBeyond) {
			return starts, complete, nil
		}
		if err != nil {
			return nil, 0, err
		}
		if unit {
			if len(starts) >= maxUnits {
				return nil, 0, errOther
			}
			starts = append(starts, at)
		}
		if next > end {
			return starts, complete, nil
		}
		at, complete = next, next
	}
	return starts, complete, nil
}

// maxUnits bounds what one look at a file may list.
const maxUnits = 1 << 20

// errBeyond: bytes are wanted that aren't there.
var errBeyond = errors.New("the file has not arrived so far")

// walker reads small pieces of a file up to end.
type walker struct {
	ctx context.Context
	f   File
	end int64
	// wanted is the end of what wasn't there.
	wanted int64
	// steps counts reads.
	steps int
}

// maxSteps bounds a walk: a day in clusters or fragments of a tenth of a second has
// less, and headers of nothing, one after the other, have more.
const maxSteps = 4 << 20

func (r *walker) bytes(at int64, n int) ([]byte, error) {
	if r.steps++; r.steps > maxSteps {
		return nil, errOther
	}
	if at < 0 || at > math.MaxInt64-int64(n) || at+int64(n) > r.f.Size() && r.end >= r.f.Size() {
		return nil, errOther
	}
	if at+int64(n) > r.end {
		r.wanted = at + int64(n)
		return nil, errBeyond
	}
	b := make([]byte, n)
	if _, err := r.f.ReadAt(r.ctx, b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// some reads up to n bytes, at least one.
func (r *walker) some(at int64, n int) ([]byte, error) {
	if left := r.end - at; left > 0 && left < int64(n) {
		n = int(left)
	}
	return r.bytes(at, n)
}

const syncByte = 0x47

// transportStream finds the tables of a stream of one programme.
func (r *walker) transportStream() (Layout, error) {
	l := Layout{Kind: TransportStream}
	programme := -1
	var section int // bytes of the map that have not come
	for at := int64(0); at < tablesWithin; at += tsPacket {
		b, err := r.bytes(at, tsPacket)
		if err != nil {
			return l, err
		}
		if b[0] != syncByte {
			return l, errOther
		}
		pid := int(binary.BigEndian.Uint16(b[1:]) & 0x1fff)
		if pid != 0 && pid != programme || b[3]&0x10 == 0 {
			continue
		}
		payload := b[4:]
		if b[3]&0x20 != 0 {
			if int(payload[0])+1 > len(payload) {
				return l, errOther
			}
			payload = payload[int(payload[0])+1:]
		}
		begins := b[1]&0x40 != 0
		if begins {
			if len(payload) == 0 || int(payload[0])+1 > len(payload) {
				return l, errOther
			}
			payload = payload[int(payload[0])+1:]
		}
		switch {
		case pid == 0 && begins && programme < 0:
			if programme, err = onlyProgramme(payload); err != nil {
				return l, err
			}
			l.Tables = append(l.Tables, b...)
		case pid == programme && begins && section == 0:
			if len(payload) < 3 || payload[0] != 2 {
				return l, errOther
			}
			section = 3 + int(binary.BigEndian.Uint16(payload[1:])&0xfff)
			fallthrough
		case pid == programme && section > 0:
			if len(l.Tables) >= maxTables*tsPacket {
				return l, errOther
			}
			l.Tables = append(l.Tables, b...)
			if section -= len(payload); section <= 0 {
				return l, nil
			}
		}
	}
	return l, errOther
}

// onlyProgramme is where the map of the only programme is (ISO/IEC 13818-1, 2.4.4.3).
func onlyProgramme(section []byte) (int, error) {
	if len(section) < 8 || section[0] != 0 {
		return 0, errOther
	}
	end := 3 + int(binary.BigEndian.Uint16(section[1:])&0xfff) - 4
	if end > len(section) {
		return 0, errOther
	}
	pid := -1
	for at := 8; at+4 <= end; at += 4 {
		if binary.BigEndian.Uint16(section[at:]) == 0 {
			continue // the network's own
		}
		if pid >= 0 {
			return 0, errOther
		}
		pid = int(binary.BigEndian.Uint16(section[at+2:]) & 0x1fff)
	}
	if pid <= 0 {
		return 0, errOther
	}
	return pid, nil
}

// Matroska's elements that are looked for (RFC 9559, 5).
const (
	ebmlHeader   = 0x1a45dfa3
	ebmlSegment  = 0x18538067
	ebmlTracks   = 0x1654ae6b
	ebmlCluster  = 0x1f43b675
	ebmlUnknown  = -1
	ebmlVoid     = 0xec
	ebmlChecksum = 0xbf
)

// topElements are those a segment has.
var topElements = []uint32{0x114d9b74, 0x1549a966, ebmlTracks, ebmlCluster, 0x1c53bb6b, 0x1941a469, 0x1043a770, 0x1254c367, ebmlVoid, ebmlChecksum}

// header reads an element's id and size; body is where its data begins.
func (r *walker) header(at int64) (id uint32, body, size int64, err error) {
	b, err := r.some(at, 12)
	if err != nil {
		return 0, 0, 0, err
	}
	length := func(b []byte, most int) (int, error) {
		if len(b) == 0 {
			r.wanted = at + 12
			return 0, errBeyond
		}
		for n := 1; n <= most; n++ {
			if b[0]&(0x80>>(n-1)) != 0 {
				if n > len(b) {
					r.wanted = at + 12
					return 0, errBeyond
				}
				return n, nil
			}
		}
		return 0, errOther
	}
	n, err := length(b, 4)
	if err != nil {
		return 0, 0, 0, err
	}
	for _, c := range b[:n] {
		id = id<<8 | uint32(c)
	}
	b = b[n:]
	m, err := length(b, 8)
	if err != nil {
		return 0, 0, 0, err
	}
	v := uint64(b[0]) & (0xff >> m)
	all := v == 0xff>>m
	for _, c := range b[1:m] {
		v = v<<8 | uint64(c)
		all = all && c == 0xff
	}
	size = int64(v)
	if all {
		size = ebmlUnknown
	}
	if size > maxTime {
		return 0, 0, 0, errOther
	}
	return id, at + int64(n+m), size, nil
}

func (r *walker) matroska() (Layout, error) {
	_, body, size, err := r.header(0)
	if err != nil || size < 0 {
		return Layout{}, errors.Join(err, unknownSize(size))
	}
	id, at, _, err := r.header(body + size)
	if err != nil {
		return Layout{}, err
	}
	if id != ebmlSegment {
		return Layout{}, errOther
	}
	tracks := false
	for at < maxHead {
		id, body, size, err := r.header(at)
		switch {
		case err != nil:
			return Layout{}, err
		case id == ebmlCluster && tracks:
			return Layout{Kind: Matroska, Head: at}, nil
		case id == ebmlCluster, size < 0, !slices.Contains(topElements, id):
			return Layout{}, errOther
		case id == ebmlTracks:
			tracks = true
		}
		at = body + size
	}
	return Layout{}, errOther
}

func unknownSize(size int64) error {
	if size == ebmlUnknown {
		return errOther
	}
	return nil
}

// element is where the segment's element after the one at a place begins, and
// whether that one is a cluster.
func (r *walker) element(at int64) (next int64, cluster bool, err error) {
	id, body, size, err := r.header(at)
	switch {
	case err != nil:
		return 0, false, err
	case !slices.Contains(topElements, id):
		return 0, false, errOther
	case size >= 0:
		return body + size, id == ebmlCluster, nil
	case id != ebmlCluster:
		return 0, false, errOther
	}
	// A cluster of unknown size ends where something begins that it can't hold.
	for next = body; ; {
		if next >= r.f.Size() {
			return next, true, nil
		}
		id, body, size, err := r.header(next)
		if err != nil {
			return 0, false, err
		}
		if slices.Contains(topElements, id) && id != ebmlVoid && id != ebmlChecksum {
			return next, true, nil
		}
		if size < 0 {
			return 0, false, errOther
		}
		next = body + size
	}
}

// box is where the box after the one at a place begins, and whether that one is a
// fragment's header.
func (r *walker) box(at int64) (next int64, fragment bool, err error) {
	h, err := r.some(at, 16)
	if err != nil {
		return 0, false, err
	}
	if len(h) < 8 {
		r.wanted = at + 16
		return 0, false, errBeyond
	}
	size := int64(binary.BigEndian.Uint32(h))
	if size == 1 {
		if len(h) < 16 {
			r.wanted = at + 16
			return 0, false, errBeyond
		}
		size = int64(binary.BigEndian.Uint64(h[8:]))
	}
	if size < 8 || size > maxTime {
		return 0, false, errOther
	}
	return at + size, string(h[4:8]) == "moof", nil
}

func (r *walker) fragmented() (Layout, error) {
	moov := false
	for at := int64(0); at < maxHead; {
		next, fragment, err := r.box(at)
		if err != nil {
			return Layout{}, err
		}
		if fragment {
			if !moov {
				return Layout{}, errOther
			}
			return Layout{Kind: Fragmented, Head: at}, nil
		}
		h, err := r.bytes(at, 8)
		if err != nil {
			return Layout{}, err
		}
		switch string(h[4:8]) {
		case "mdat":
			return Layout{}, errOther
		case "moov":
			moov = true
		}
		at = next
	}
	return Layout{}, errOther
}
