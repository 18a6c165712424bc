package probe

import (
	"strings"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/internal/hls"
)

// Source is what a file holds.
type Source struct {
	// Format is ffmpeg's name of the container.
	Format string
	// Duration as the header says, 0 when it doesn't.
	Duration time.Duration
	// StartMicros is the container's first time, for sources without video.
	StartMicros int64
	// BitRate is the whole file's average in bit/s, 0 when unknown.
	BitRate int64
	// Video is nil for audio-only sources.
	Video *Video
	Audio []Audio
	// Text are tracks of subtitles that are text; pictures of text aren't read.
	Text []Text
	// TextZero is the video's first time in Text's file, in microseconds, when that
	// isn't the file the video is read from.
	TextZero int64
	// Copied says that ffmpeg made the file here, so that it's cheap to read all of it.
	Copied bool
	// FFmpeg names the build that looked at it.
	FFmpeg string
	// NeedsRemux says why chunks can't be cut from this container; empty when they can.
	NeedsRemux string
}

// Video is the picture stream that is encoded.
type Video struct {
	Stream  int
	TrackID int
	Codec   string
	// Width and Height as coded, before SAR and rotation.
	Width, Height int
	SAR           hls.Rational
	// Rotate is how many degrees clockwise it must be turned to stand upright: 0, 90, 180 or 270.
	Rotate     int
	TimeBase   hls.Rational
	FrameRate  hls.Rational
	Interlaced bool
	// Pixels is ffmpeg's name of the pixel format, Profile of the codec's profile.
	Pixels, Profile string
	// HDR transfer (PQ or HLG), which needs tone mapping.
	HDR bool
	// Untagged is HDR whose primaries or matrix aren't told: BT.2020 by far the most often.
	Untagged bool
	// first holds the first packets' times, to check the sample tables against.
	first []packet
}

// Guessed says that Duration is what ffmpeg takes the file to last by its size and the rate of
// its first frames: a stream of AAC frames says nothing of its length, nor does an MP3 whose
// encoder put no description in front. Such a one tells the encoder's delay as well, by which
// the sound begins later.
func (s Source) Guessed() bool { return s.Format == "aac" || s.Format == "mp3" && s.StartMicros == 0 }

// Audio is one sound track.
type Audio struct {
	Stream   int
	Codec    string
	Channels int
	// Language is a BCP 47 tag, empty when unknown.
	Language string
	Title    string
	Default  bool
}

// Text is one track of subtitles.
type Text struct {
	Stream int
	// Language is a BCP 47 tag, empty when unknown.
	Language string
	Title    string
	Forced   bool
}

// begins tells when the earliest of the video's first packets is shown, in its time base, and
// when the earliest keyframe among them is: what is shown before that may need what isn't there.
func (v Video) begins() (first, key int64) {
	known, keyed := false, false
	for _, p := range v.first {
		if p.PTS == nil || strings.Contains(p.Flags, "D") {
			continue
		}
		if !known || *p.PTS < first {
			first, known = *p.PTS, true
		}
		if strings.Contains(p.Flags, "K") && (!keyed || *p.PTS < key) {
			key, keyed = *p.PTS, true
		}
	}
	if !keyed {
		return first, first
	}
	return first, key
}

// Display returns the picture's size in square pixels, upright.
func (v Video) Display() (width, height int) {
	w, h := float64(v.Width), float64(v.Height)
	if s := v.SAR.Float(); s > 1 {
		w *= s
	} else if s > 0 && s < 1 {
		h /= s
	}
	if v.Rotate%180 != 0 {
		w, h = h, w
	}
	return int(w + 0.5), int(h + 0.5)
}

// Limits a source must keep to.
type Limits struct {
	Duration time.Duration
	// Side is the longest side in pixels, MinSide the shortest.
	Side, MinSide int
	Streams       int
}

// DefaultLimits suit general use.
func DefaultLimits() Limits {
	return Limits{Duration: 12 * time.Hour, Side: ffmpeg.MaxSide, MinSide: 16, Streams: 64}
}
