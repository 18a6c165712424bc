package fmp4

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/Eyevinn/mp4ff/aac"
	"github.com/Eyevinn/mp4ff/avc"
	"github.com/Eyevinn/mp4ff/mp4"
)

// Revision counts up when the same stream gets an initialisation segment of other bytes than
// before: those of different revisions can't be parts of one rendition.
const Revision = 2

// Init is an initialisation segment.
type Init struct {
	// Name is "init-{sha8}.mp4".
	Name string
	Data []byte
	// Codecs is the RFC 6381 string of the one track.
	Codecs string
	// Width and Height as coded; 0 for audio.
	Width, Height int
}

// VideoInit makes the initialisation segment for the H.264 track ffmpeg
// described in moov. Only parameter sets are taken over.
func VideoInit(moov *mp4.MoovBox, timescale uint32) (Init, error) {
	c := avcConfiguration(moov)
	if c == nil {
		return Init{}, fmt.Errorf("%w: no avc1 sample entry", ErrMalformed)
	}
	if len(c.SPSnalus) == 0 || len(c.PPSnalus) == 0 {
		return Init{}, fmt.Errorf("%w: avcC without parameter sets", ErrMalformed)
	}
	sps, err := avc.ParseSPSNALUnit(c.SPSnalus[0], true)
	if err != nil {
		return Init{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	init := emptyInit()
	init.AddEmptyTrack(timescale, "video", "und")
	if err := init.Moov.Trak.SetAVCDescriptor("avc1", c.SPSnalus, c.PPSnalus, true); err != nil {
		return Init{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	out, err := encodeInit(init)
	if err != nil {
		return Init{}, err
	}
	out.Codecs = avc.CodecString("avc1", sps)
	out.Width, out.Height = int(sps.Width), int(sps.Height)
	return out, nil
}

// avcConfiguration is nil when the track isn't a complete H.264 one.
func avcConfiguration(moov *mp4.MoovBox) *mp4.AvcCBox {
	t := moov.Trak
	if t == nil || t.Mdia == nil || t.Mdia.Minf == nil || t.Mdia.Minf.Stbl == nil {
		return nil
	}
	if stsd := t.Mdia.Minf.Stbl.Stsd; stsd != nil && stsd.AvcX != nil {
		return stsd.AvcX.AvcC
	}
	return nil
}

// AudioInit makes the initialisation segment of an AAC-LC stereo track.
// language is ISO 639-2/T, or "und".
func AudioInit(sampleRate int, language string) (Init, error) {
	init := emptyInit()
	init.AddEmptyTrack(uint32(sampleRate), "audio", language)
	if err := init.Moov.Trak.SetAACDescriptor(aac.AAClc, sampleRate); err != nil {
		return Init{}, fmt.Errorf("audio init: %w", err)
	}
	out, err := encodeInit(init)
	out.Codecs = "mp4a.40.2"
	return out, err
}

// emptyInit has no tracks yet. The major brand is to be among those that follow it, too
// (ISO/IEC 14496-12, 4.3), and CMAF looks for its own only there.
func emptyInit() *mp4.InitSegment {
	init := mp4.CreateEmptyInit()
	init.Ftyp.AddCompatibleBrands([]string{init.Ftyp.MajorBrand()})
	return init
}

func encodeInit(init *mp4.InitSegment) (Init, error) {
	var b bytes.Buffer
	if err := init.Encode(&b); err != nil {
		return Init{}, fmt.Errorf("encode init: %w", err)
	}
	sum := sha256.Sum256(b.Bytes())
	return Init{Name: "init-" + hex.EncodeToString(sum[:4]) + ".mp4", Data: b.Bytes()}, nil
}

// Track is what an initialisation segment says about its one track.
type Track struct {
	// Timescale in units per second.
	Timescale int64
	// Codecs is the RFC 6381 string, empty for codecs this package doesn't know.
	Codecs string
	// Width and Height as coded; 0 for audio.
	Width, Height int
}

// Describe reads what moov says about its one track.
func Describe(moov *mp4.MoovBox) (Track, error) {
	t := moov.Trak
	if t == nil || t.Mdia == nil || t.Mdia.Mdhd == nil || t.Mdia.Mdhd.Timescale == 0 ||
		t.Mdia.Minf == nil || t.Mdia.Minf.Stbl == nil || t.Mdia.Minf.Stbl.Stsd == nil {
		return Track{}, fmt.Errorf("%w: track without a timescale or sample description", ErrMalformed)
	}
	out := Track{Timescale: int64(t.Mdia.Mdhd.Timescale)}
	stsd := t.Mdia.Minf.Stbl.Stsd
	if c := avcConfiguration(moov); c != nil && len(c.SPSnalus) > 0 {
		sps, err := avc.ParseSPSNALUnit(c.SPSnalus[0], true)
		if err != nil {
			return Track{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		out.Codecs, out.Width, out.Height = avc.CodecString("avc1", sps), int(sps.Width), int(sps.Height)
	}
	if stsd.Mp4a != nil && stsd.Mp4a.Esds != nil && stsd.Mp4a.Esds.DecConfigDescriptor != nil {
		if d := stsd.Mp4a.Esds.DecConfigDescriptor; d.DecSpecificInfo != nil && len(d.DecSpecificInfo.DecConfig) > 0 {
			out.Codecs = fmt.Sprintf("mp4a.%x.%d", d.ObjectType, d.DecSpecificInfo.DecConfig[0]>>3)
		}
	}
	return out, nil
}
