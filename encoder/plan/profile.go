package plan

import "fmt"

// Profile says how to encode.
type Profile struct {
	Name string
	// Rungs are the heights of 16:9 boxes, highest first.
	Rungs []int
	// Preset, CRF and Threads of x264. Its output depends on the number of
	// threads, so that is part of the run.
	Preset  string
	CRF     int
	Threads int
	// SegmentSeconds is the grid; MaxChunk the longest chunk in segments.
	SegmentSeconds int
	MaxChunk       int
	// Copy publishes a source's own picture as the highest rung where it can be.
	Copy bool
	// MaxFrameRate in frames per second.
	MaxFrameRate int
	AudioBitrate int64
	// Loudness of audio tracks in LUFS; 0 leaves them as they are.
	Loudness float64
	// MaxAudioTracks are encoded, the first ones.
	MaxAudioTracks int
}

// Default is the profile of general use, with the given number of threads per rung.
func Default(threads int) Profile {
	return Profile{Name: "default", Rungs: []int{2160, 1440, 1080, 720, 480, 360, 240}, Preset: "veryfast", CRF: 23,
		Threads: threads, SegmentSeconds: 2, MaxChunk: 30, Copy: true, MaxFrameRate: 60, AudioBitrate: 128_000, Loudness: -16, MaxAudioTracks: 8}
}

// SampleRate of all audio renditions.
const SampleRate = 48000

// Validate checks the profile.
func (p Profile) Validate() error {
	if len(p.Rungs) == 0 || p.Threads < 1 || p.SegmentSeconds < 1 || p.MaxChunk < 1 || p.MaxFrameRate < 1 {
		return fmt.Errorf("profile %q: rungs, threads, segment length, chunk length and frame rate must be set", p.Name)
	}
	if p.Loudness < -40 || p.Loudness > 0 {
		return fmt.Errorf("profile %q: loudness %v LUFS: want -40 to 0", p.Name, p.Loudness)
	}
	for i, r := range p.Rungs {
		if r < 16 || r%2 != 0 || i > 0 && r >= p.Rungs[i-1] {
			return fmt.Errorf("profile %q: rungs %v: want even heights, highest first", p.Name, p.Rungs)
		}
	}
	return nil
}
