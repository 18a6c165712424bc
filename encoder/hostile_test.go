package encoder

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	imagepng "image/png"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/testenv"
)

// What a worker of TestHostileMedia may take, in MiB: each ffmpeg, all together, the
// largest temporary file; and the worker itself.
const (
	hostileMemory  = 3072
	hostileScratch = 64
	hostileWorker  = 512
)

// hostile is a source that costs far more than its bytes say. Its codes are what it may be
// refused with; without any it is encoded.
type hostile struct {
	data  func(t *testing.T) []byte
	codes []probe.Code
	// long rows run in long tests only.
	long bool
}

func text(s string) func(*testing.T) []byte { return func(*testing.T) []byte { return []byte(s) } }

// made makes a source with ffmpeg.
func made(name string, args ...string) func(*testing.T) []byte {
	return func(t *testing.T) []byte { return readFile(t, makeFile(t, name, args...)) }
}

// copies is one stream so many times over: its description is repeated.
func copies(n int) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		b := made("one.mp4", "-f", "lavfi", "-i", "anullsrc", "-t", "0.05", "-c:a", "aac")(t)
		moov, trak := bytes.Index(b, []byte("moov"))-4, bytes.Index(b, []byte("trak"))-4
		require.Greater(t, moov, bytes.Index(b, []byte("mdat")), "the index isn't at the end")
		require.Greater(t, trak, moov)
		track := b[trak : trak+int(binary.BigEndian.Uint32(b[trak:]))]
		return append(b[:moov:moov], atom("moov", slices.Concat(b[moov+8:trak], bytes.Repeat(track, n)))...)
	}
}

var hostileMedia = map[string]hostile{
	"playlist":                   {text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), []probe.Code{probe.CodeNotMedia}, false},
	"concat script":              {text("ffconcat version 1.0\nfile /etc/passwd\n"), []probe.Code{probe.CodeNotMedia}, false},
	"1,000 streams":              {copies(1000), []probe.Code{probe.CodeStreams}, false},
	"1,500 streams":              {copies(1500), []probe.Code{probe.CodeStreams}, false},
	"one frame for an hour":      {made("still.mp4", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=1/3600", "-frames:v", "1", "-c:v", "libx264"), []probe.Code{probe.CodeDamaged}, false},
	"two frames for an hour":     {made("two.mkv", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=1/3600", "-frames:v", "2", "-c:v", "libx264"), []probe.Code{probe.CodeDamaged}, false},
	"one frame and an hour":      {made("sound.mkv", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=25", "-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-vf", "trim=end_frame=1", "-t", "3600", "-c:v", "libx264", "-c:a", "flac"), []probe.Code{probe.CodeDamaged}, false},
	"an hour of 1 × 1":           {made("dot.mkv", "-f", "lavfi", "-i", "color=s=16x16:r=1:d=3600,crop=1:1,format=gray", "-c:v", "ffv1"), []probe.Code{probe.CodeTooSmall}, false},
	"an hour of 16 × 16":         {made("icon.mp4", "-f", "lavfi", "-i", "testsrc2=s=16x16:r=1:d=3600", "-c:v", "libx264", "-preset", "ultrafast"), nil, true},
	"30,000 × 30,000":            {huge, []probe.Code{probe.CodeDimensions, probe.CodeDamaged}, false},
	"a PNG of 30,000 × 30,000":   {picture, []probe.Code{probe.CodeUnsupported}, false},
	"VP9, said to be small":      {grownVP9, []probe.Code{probe.CodeDimensions, probe.CodeDamaged}, false},
	"400 MB of pictures, packed": {flat, nil, false},
	"1 GiB of header, packed":    {packed, []probe.Code{probe.CodeTruncated, probe.CodeNotMedia, probe.CodeNoStreams}, false},
	"4,000,000,000 samples":      {counted, []probe.Code{probe.CodeTruncated, probe.CodeDuration, probe.CodeDamaged, probe.CodeNotMedia}, false},
}

// huge is a motion JPEG whose headers all claim a picture of 30,000 × 30,000.
func huge(t *testing.T) []byte {
	b := made("huge.avi", "-f", "lavfi", "-i", "testsrc2=s=320x180:d=0.2", "-c:v", "mjpeg")(t)
	jpeg := func(h, w uint16) []byte {
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, h), w)
	}
	header := func(w, h uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, w), h)
	}
	b = bytes.ReplaceAll(b, jpeg(180, 320), jpeg(30_000, 30_000))
	return bytes.ReplaceAll(b, header(320, 180), header(30_000, 30_000))
}

// picture is a QuickTime file of one PNG of 30,000 × 30,000, all of it there in a hundred
// kilobytes.
func picture(t *testing.T) []byte {
	const side, small = 30_000, 64
	const row = 1 + side/8 // a filter, and a bit for each pixel
	data := zeros(t, side*row, side/100*row)
	png := []byte("\x89PNG\r\n\x1a\n")
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"IHDR", append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, side), side), 1, 0, 0, 0, 0)},
		{"IDAT", data},
		{"IEND", nil},
	} {
		png = append(append(binary.BigEndian.AppendUint32(png, uint32(len(c.body))), c.name...), c.body...)
		png = binary.BigEndian.AppendUint32(png, crc32.ChecksumIEEE(append([]byte(c.name), c.body...)))
	}
	config, err := imagepng.DecodeConfig(bytes.NewReader(png))
	require.NoError(t, err)
	require.Equal(t, side, config.Width)

	// In a file made of a small one it takes its place.
	b := made("picture.mov", "-f", "lavfi", "-i", fmt.Sprintf("color=s=%dx%d:r=1", small, small), "-frames:v", "1", "-c:v", "png")(t)
	mdat, moov := bytes.Index(b, []byte("mdat"))-4, bytes.Index(b, []byte("moov"))-4
	require.Less(t, mdat, moov)
	head := b[moov:]
	size := bytes.Index(head, []byte("stsz"))
	require.Positive(t, size)
	copy(head[size+8:], binary.BigEndian.AppendUint32(nil, uint32(len(png))))
	was := []byte{0, small, 0, small}
	entry := bytes.Index(head, []byte("png "))
	require.Positive(t, entry)
	at := entry + bytes.Index(head[entry:], was)
	require.GreaterOrEqual(t, at, entry)
	copy(head[at:], binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, side), side))
	return slices.Concat(b[:mdat], atom("mdat", png), head)
}

// grownVP9 is a film of 320 × 180 as its container says, and whose frames say they are of
// 30,000 × 30,000.
func grownVP9(t *testing.T) []byte {
	const side = 30_000
	b := made("small.webm", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=10:d=3", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "1")(t)
	// The sync code of a keyframe; then, after four bits, a side less one twice, in 16 bits each.
	sync, n := []byte{0x49, 0x83, 0x42}, 0
	for i := 0; i+8 < len(b); i++ {
		if !bytes.HasPrefix(b[i:], sync) {
			continue
		}
		v := binary.BigEndian.Uint64(b[i+1:])
		if v>>(64-16-4-32)&0xffff_ffff != 319<<16|179 {
			continue
		}
		v &^= 0xffff_ffff << (64 - 16 - 4 - 32)
		v |= ((side-1)<<16 | side - 1) << (64 - 16 - 4 - 32)
		binary.BigEndian.PutUint64(b[i+1:], v)
		n++
	}
	require.Greater(t, n, 10)
	return b
}

// flat is the largest picture there may be, of one colour, over and over.
func flat(t *testing.T) []byte {
	one := makeFile(t, "flat.mp4", "-f", "lavfi", "-i", "color=s=8192x8192:r=10", "-frames:v", "1", "-c:v", "libx264", "-preset", "ultrafast")
	b := made("bomb.mp4", "-stream_loop", "3", "-i", one, "-c", "copy")(t)
	require.Less(t, len(b), 4<<20)
	return b
}

func atom(name string, body []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(8+len(body))), name...), body...)
}

// zeros are size zeros, compressed: those of a piece over and over.
func zeros(t *testing.T, size, piece int) []byte {
	require.Zero(t, size%piece)
	var block bytes.Buffer
	w, err := flate.NewWriter(&block, flate.DefaultCompression)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, piece))
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	// RFC 1950: a header, the same blocks over and over, an empty last one, and the sum.
	return slices.Concat([]byte{0x78, 0x9c}, bytes.Repeat(block.Bytes(), size/piece), []byte{3, 0},
		binary.BigEndian.AppendUint32(nil, uint32(size%65521<<16|1)))
}

// packed is a QuickTime file whose header is a gigabyte of zeros, compressed.
func packed(t *testing.T) []byte {
	const size = 1 << 30
	z := zeros(t, size, 1<<20)
	moov := atom("moov", atom("cmov", slices.Concat(atom("dcom", []byte("zlib")), atom("cmvd", slices.Concat(binary.BigEndian.AppendUint32(nil, size), z)))))
	return slices.Concat(atom("ftyp", []byte("qt  \x00\x00\x00\x00qt  ")), moov, atom("mdat", make([]byte, 1000)))
}

// counted is a film whose tables say in a few bytes that it has four thousand million
// samples of one byte.
func counted(t *testing.T) []byte {
	b := slices.Clone(readFile(t, mediaFile("bikes-noaudio.mp4")))
	const many = 4_000_000_000
	i := bytes.Index(b, []byte("stsz"))
	require.Positive(t, i)
	copy(b[i+8:], binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 1), many))
	i = bytes.Index(b, []byte("stts"))
	require.Positive(t, i)
	copy(b[i+12:], binary.BigEndian.AppendUint32(nil, many))
	return b
}

// What costs far more than it says is refused with a reason, or encoded, and the worker's
// memory and disk stay within what its flags say. It lives on.
func TestHostileMedia(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	w := q.process(t, "eu", "--memory", strconv.Itoa(hostileMemory), "--memory-total", strconv.Itoa(hostileMemory), "--max-scratch", strconv.Itoa(hostileScratch))
	peak := w.watch(t)
	assets := map[string]string{}
	for name, h := range hostileMedia {
		if h.long && !testenv.IsLong() {
			continue
		}
		assets[name] = q.upload(t, h.data(t))
	}
	for name, asset := range assets {
		h := hostileMedia[name]
		var a catalog.Asset
		require.Eventually(t, func() bool {
			a = q.asset(t, asset)
			return a.State == catalog.Ready || a.State == catalog.Failed
		}, 3*time.Minute, lookEvery, name)
		t.Logf("%s: %s %+v", name, a.State, a.Failure)
		if len(h.codes) == 0 {
			require.Equal(t, catalog.Ready, a.State, "%s: %+v", name, a.Failure)
			continue
		}
		require.Equal(t, catalog.Failed, a.State, name)
		require.Contains(t, h.codes, probe.Code(a.Failure.Code), "%s: %s", name, a.Failure.Detail)
		require.NotEmpty(t, a.Failure.Detail)
	}
	good := q.upload(t, readFile(t, mediaFile("bikes-noaudio.mp4")))
	q.becomes(t, good, catalog.Ready, 2*time.Minute)
	got := peak()
	require.LessOrEqual(t, got.children, int64(hostileMemory)<<20, "memory of all ffmpegs")
	require.LessOrEqual(t, got.worker, int64(hostileWorker)<<20, "memory of the worker")
	require.LessOrEqual(t, got.scratch, int64(hostileScratch)<<20, "temporary files")
	testenv.Figure(t, "hostile media", "all ffmpegs took %d MiB at most, the worker %d MiB, its temporary files %d KiB", got.children>>20, got.worker>>20, got.scratch>>10)
}

// peaks are the most bytes that were taken at once.
type peaks struct{ children, worker, scratch int64 }

// watch looks again and again at what a worker takes, until peak is called.
func (w *workerProcess) watch(t *testing.T) (peak func() peaks) {
	t.Helper()
	var most peaks
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			var children int64
			for _, pid := range childrenOf(w.Process.Pid) {
				children += resident(pid)
			}
			most.children = max(most.children, children)
			most.worker = max(most.worker, resident(w.Process.Pid))
			most.scratch = max(most.scratch, size(w.scratch))
		}
	}()
	return func() peaks {
		close(stop)
		<-done
		return most
	}
}

// resident is the most memory a process has had (proc(5)), 0 of one that has ended.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib << 10
}

// size is what a directory's files have; what vanishes meanwhile counts nothing.
func size(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
