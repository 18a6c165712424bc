package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A log segment is a row of records, each at a multiple of recordAlign: a header
// with the checksum of every block, then the body.
const (
	recordMagic = 0x4d4c4f47 // "MLOG"
	recordAlign = 4096
	// blockSize is the unit of checking: a reader gets nothing of a block before
	// all of it was found right.
	blockSize   = 64 << 10
	headerFixed = 4 + 4 + 4 + 8 + 8 + 8 + 2 + 2 + 2 + 32
	maxKey      = 1024
	maxTag      = 256
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("no valid record")

type header struct {
	key    string
	info   Info
	blocks []uint32
}

func blockCount(size int64) int { return int((size + blockSize - 1) / blockSize) }

// encodeHeader returns the header of a record. The layout, little-endian:
// magic, length, crc of all that follows, size, fetched, modified, lengths of
// key, etag and origin, sha256, key, etag, origin, crc per block.
func encodeHeader(key string, info Info, body []byte) ([]byte, error) {
	if len(key) == 0 || len(key) > maxKey || len(info.ETag) > maxTag || len(info.Origin) > maxTag {
		return nil, fmt.Errorf("cache record: key of %d, etag of %d, origin of %d bytes: too long", len(key), len(info.ETag), len(info.Origin))
	}
	n := headerFixed + len(key) + len(info.ETag) + len(info.Origin) + 4*blockCount(int64(len(body)))
	b := make([]byte, 12, n)
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(len(body)))
	b = le.AppendUint64(b, uint64(info.Fetched.UnixNano()))
	modified := int64(0)
	if !info.Modified.IsZero() {
		modified = info.Modified.UnixNano()
	}
	b = le.AppendUint64(b, uint64(modified))
	b = le.AppendUint16(b, uint16(len(key)))
	b = le.AppendUint16(b, uint16(len(info.ETag)))
	b = le.AppendUint16(b, uint16(len(info.Origin)))
	var sum [32]byte
	if raw, err := hex.DecodeString(info.SHA256); err == nil && len(raw) == len(sum) {
		copy(sum[:], raw)
	}
	b = append(b, sum[:]...)
	b = append(b, key...)
	b = append(b, info.ETag...)
	b = append(b, info.Origin...)
	for at := 0; at < len(body); at += blockSize {
		b = le.AppendUint32(b, crc32.Checksum(body[at:min(at+blockSize, len(body))], castagnoli))
	}
	le.PutUint32(b, recordMagic)
	le.PutUint32(b[4:], uint32(len(b)))
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b, nil
}

// headerLen reads a header's length from its first twelve bytes.
func headerLen(b []byte, maxObject int64) (int, error) {
	le := binary.LittleEndian
	if len(b) < 12 || le.Uint32(b) != recordMagic {
		return 0, errRecord
	}
	n := int64(le.Uint32(b[4:]))
	if n < headerFixed || n > headerFixed+maxKey+2*maxTag+4*int64(blockCount(maxObject)) {
		return 0, errRecord
	}
	return int(n), nil
}

// decodeHeader parses a header of exactly the length headerLen gave.
func decodeHeader(b []byte, maxObject int64) (header, error) {
	n, err := headerLen(b, maxObject)
	if err != nil || n != len(b) {
		return header{}, errRecord
	}
	le := binary.LittleEndian
	if crc32.Checksum(b[12:], castagnoli) != le.Uint32(b[8:]) {
		return header{}, errRecord
	}
	size := int64(le.Uint64(b[12:]))
	key, tag, origin := int(le.Uint16(b[36:])), int(le.Uint16(b[38:])), int(le.Uint16(b[40:]))
	if size < 0 || size > maxObject || key == 0 || n != headerFixed+key+tag+origin+4*blockCount(size) {
		return header{}, errRecord
	}
	h := header{info: Info{Size: size, Fetched: time.Unix(0, int64(le.Uint64(b[20:])))}}
	if m := int64(le.Uint64(b[28:])); m != 0 {
		h.info.Modified = time.Unix(0, m)
	}
	if sum := [32]byte(b[42:74]); sum != [32]byte{} {
		h.info.SHA256 = hex.EncodeToString(sum[:])
	}
	rest := b[headerFixed:]
	h.key, rest = string(rest[:key]), rest[key:]
	h.info.ETag, rest = string(rest[:tag]), rest[tag:]
	h.info.Origin, rest = string(rest[:origin]), rest[origin:]
	h.blocks = make([]uint32, blockCount(size))
	for i := range h.blocks {
		h.blocks[i] = le.Uint32(rest[4*i:])
	}
	return h, nil
}

func aligned(n int64) int64 { return (n + recordAlign - 1) / recordAlign * recordAlign }
