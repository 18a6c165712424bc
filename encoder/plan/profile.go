package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"
)

// Profile says how to encode. What a file leaves out is as in Default.
type Profile struct {
	Name string `yaml:"name" json:"name"`
	// Version counts the profile's changes, for people; runs record it.
	Version int `yaml:"version" json:"version"`
	// Rungs are the heights of 16:9 boxes, highest first.
	Rungs []int `yaml:"rungs" json:"rungs"`
	// Preset, CRF and Threads of x264. Its output depends on the number of
	// threads, so that is part of the run; 0 is the worker's own.
	Preset  string `yaml:"preset" json:"preset"`
	CRF     int    `yaml:"crf" json:"crf"`
	Threads int    `yaml:"threads" json:"threads"`
	// SegmentSeconds is the grid; MaxChunk the longest chunk in segments.
	SegmentSeconds int `yaml:"segment_seconds" json:"segment_seconds"`
	MaxChunk       int `yaml:"max_chunk" json:"max_chunk"`
	// Copy publishes a source's own picture as the highest rung where it can be.
	Copy bool `yaml:"copy" json:"copy"`
	// PerTitle fits the rungs and their caps to each source.
	PerTitle PerTitle `yaml:"per_title" json:"per_title"`
	// MaxFrameRate in frames per second.
	MaxFrameRate int `yaml:"max_frame_rate" json:"max_frame_rate"`
	// AudioBitrate in bit/s.
	AudioBitrate int64 `yaml:"audio_bitrate" json:"audio_bitrate"`
	// Loudness of audio tracks in LUFS; 0 leaves them as they are.
	Loudness float64 `yaml:"loudness" json:"loudness"`
	// LoudnessMeasure is LoudnessSampled or LoudnessWhole.
	LoudnessMeasure string `yaml:"loudness_measure" json:"loudness_measure"`
	// MaxAudioTracks are encoded, the first ones.
	MaxAudioTracks int `yaml:"max_audio_tracks" json:"max_audio_tracks"`
}

// How the loudness of a track is found before it is encoded: from windows of it,
// within a second, or exactly, for which all of it is decoded once more.
const (
	LoudnessSampled = "sampled"
	LoudnessWhole   = "whole"
)

// DefaultName is the profile of runs that ask for none.
const DefaultName = "default"

// Default is the profile of general use, with the given number of threads per rung.
func Default(threads int) Profile {
	return Profile{Name: DefaultName, Version: 2, Rungs: []int{2160, 1440, 1080, 720, 480, 360, 240}, Preset: "veryfast", CRF: 23,
		Threads: threads, SegmentSeconds: 2, MaxChunk: 30, Copy: true, MaxFrameRate: 60, AudioBitrate: 128_000, Loudness: -16,
		LoudnessMeasure: LoudnessSampled, MaxAudioTracks: 8,
		PerTitle: PerTitle{Enabled: true, MinRate: 0.25, MaxRate: 1, Headroom: 1.2, Merge: 0.85}}
}

// SampleRate of all audio renditions.
const SampleRate = 48000

// presets of x264 that a worker can be asked for.
var presets = []string{"ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"}

var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Validate names every problem of the profile.
func (p Profile) Validate() error {
	var errs []error
	check := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("profile %q: "+format, append([]any{p.Name}, a...)...))
		}
	}
	check(profileName.MatchString(p.Name), "name: want lower-case letters, digits and hyphens, at most 32")
	check(p.Version >= 1, "version %d: want 1 or more", p.Version)
	check(len(p.Rungs) > 0 && len(p.Rungs) <= 16, "rungs: want 1 to 16")
	for i, r := range p.Rungs {
		check(r >= 16 && r <= 4320 && r%2 == 0 && (i == 0 || r < p.Rungs[i-1]), "rungs %v: want even heights from 16 to 4320, highest first", p.Rungs)
	}
	check(slices.Contains(presets, p.Preset), "preset %q: want one of %v", p.Preset, presets)
	check(p.CRF >= 0 && p.CRF <= 51, "crf %d: want 0 to 51", p.CRF)
	check(p.Threads >= 1 && p.Threads <= 64, "threads %d: want 1 to 64", p.Threads)
	check(p.SegmentSeconds >= 1 && p.SegmentSeconds <= 10, "segment_seconds %d: want 1 to 10", p.SegmentSeconds)
	check(p.MaxChunk >= 1 && p.MaxChunk <= 300, "max_chunk %d: want 1 to 300", p.MaxChunk)
	check(p.MaxFrameRate >= 1 && p.MaxFrameRate <= 240, "max_frame_rate %d: want 1 to 240", p.MaxFrameRate)
	check(p.AudioBitrate >= 16_000 && p.AudioBitrate <= 512_000, "audio_bitrate %d: want 16000 to 512000", p.AudioBitrate)
	check(p.Loudness >= -40 && p.Loudness <= 0, "loudness %v LUFS: want -40 to 0", p.Loudness)
	check(p.LoudnessMeasure == LoudnessSampled || p.LoudnessMeasure == LoudnessWhole, "loudness_measure %q: want %s or %s", p.LoudnessMeasure, LoudnessSampled, LoudnessWhole)
	check(p.MaxAudioTracks >= 1 && p.MaxAudioTracks <= 32, "max_audio_tracks %d: want 1 to 32", p.MaxAudioTracks)
	if t := p.PerTitle; t != (PerTitle{}) {
		check(t.MinRate >= 0.05 && t.MinRate <= 1, "per_title.min_rate %v: want 0.05 to 1", t.MinRate)
		check(t.MaxRate >= 1 && t.MaxRate <= 4, "per_title.max_rate %v: want 1 to 4", t.MaxRate)
		check(t.Headroom >= 1 && t.Headroom <= 10, "per_title.headroom %v: want 1 to 10", t.Headroom)
		check(t.Merge >= 0.3 && t.Merge <= 1, "per_title.merge %v: want 0.3 to 1", t.Merge)
	}
	return errors.Join(errs...)
}

// Profiles by name; DefaultName is always among them.
type Profiles map[string]Profile

// Names lists the profiles and others, in order.
func (p Profiles) Names(others ...string) []string {
	names := append(slices.Collect(maps.Keys(p)), others...)
	slices.Sort(names)
	return slices.Compact(names)
}

// profilesVersion is the version of the file's form.
const profilesVersion = 1

// maxProfiles and maxProfilesFile bound a file, in profiles and bytes.
const (
	maxProfiles     = 100
	maxProfilesFile = 1 << 20
)

// LoadProfiles reads profiles from YAML:
//
//	version: 1
//	profiles:
//	  - name: archive
//	    version: 3
//	    crf: 18
//
// Fields it doesn't know are errors, and every problem is named. threads is for
// profiles that don't say. A file may hold a "default" of its own.
func LoadProfiles(r io.Reader, threads int) (Profiles, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxProfilesFile+1))
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	if len(b) > maxProfilesFile {
		return nil, fmt.Errorf("profiles: the file has more than %d bytes", maxProfilesFile)
	}
	var f struct {
		Version  int              `yaml:"version"`
		Profiles []defaultProfile `yaml:"profiles"`
	}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&f); err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	var errs []error
	if f.Version != profilesVersion {
		errs = append(errs, fmt.Errorf("profiles: version %d: want %d", f.Version, profilesVersion))
	}
	if len(f.Profiles) == 0 || len(f.Profiles) > maxProfiles {
		errs = append(errs, fmt.Errorf("profiles: %d profiles: want 1 to %d", len(f.Profiles), maxProfiles))
	}
	out := Profiles{}
	for _, d := range f.Profiles {
		p := Profile(d)
		if p.Threads == 0 {
			p.Threads = threads
		}
		errs = append(errs, p.Validate())
		if _, twice := out[p.Name]; twice {
			errs = append(errs, fmt.Errorf("profile %q is there twice", p.Name))
		}
		out[p.Name] = p
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if _, ok := out[DefaultName]; !ok {
		out[DefaultName] = Default(threads)
	}
	return out, nil
}

// defaultProfile is a Profile that begins as Default does.
type defaultProfile Profile

// UnmarshalYAML decodes over the default.
func (d *defaultProfile) UnmarshalYAML(decode func(any) error) error {
	p := Default(0)
	p.Name = ""
	if err := decode(&p); err != nil {
		return err
	}
	*d = defaultProfile(p)
	return nil
}
