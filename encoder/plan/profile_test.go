package plan

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoadProfiles(t *testing.T) {
	got, err := LoadProfiles(strings.NewReader("version: 1\nprofiles:\n  - name: archive\n    version: 3\n    crf: 18\n    preset: slow\n    copy: false\n    rungs: [1080, 480]\n    loudness: 0\n    loudness_measure: whole\n"), 4)
	require.NoError(t, err)
	want := Default(4)
	want.Name, want.Version, want.CRF, want.Preset, want.Copy, want.Rungs, want.Loudness, want.LoudnessMeasure = "archive", 3, 18, "slow", false, []int{1080, 480}, 0, LoudnessWhole
	require.Equal(t, Profiles{"archive": want, "default": Default(4)}, got)
}

func TestLoadProfilesPerTitle(t *testing.T) {
	got, err := LoadProfiles(strings.NewReader("version: 1\nprofiles:\n  - name: a\n    per_title:\n      merge: 0.7\n  - {name: b, per_title: {enabled: false}}\n  - name: c\n"), 2)
	require.NoError(t, err)
	want := Default(2).PerTitle
	require.Equal(t, want, got["c"].PerTitle)
	want.Merge = 0.7
	require.Equal(t, want, got["a"].PerTitle, "what a section leaves out is as in the default")
	require.False(t, got["b"].PerTitle.Enabled)
}

func TestLoadProfilesNamesEveryProblem(t *testing.T) {
	for text, want := range map[string][]string{
		"":                           {"EOF"},
		"version: 2\nprofiles: []\n": {"version 2", "0 profiles"},
		"version: 1\nprofile: []\n":  {"profile"},
		"version: 1\nprofiles:\n  - {name: a, crv: 3}\n":                                {"crv"},
		"version: 1\nprofiles:\n  - {name: A, crf: 99, preset: hasty, rungs: [7, 9]}\n": {"name", "crf 99", "hasty", "rungs"},
		"version: 1\nprofiles:\n  - {name: a}\n  - {name: a}\n":                         {"twice"},
		"version: 1\nprofiles:\n  - {name: a, loudness_measure: some}\n":                {"loudness_measure \"some\": want sampled or whole"},
		"version: 1\nprofiles:\n  - {name: a, loudness_measure: \"\"}\n":                {"loudness_measure"},
		"version: 1\nprofiles:\n  - {name: a, per_title: {min_rate: 0, max_rate: 0.5, headroom: 0.9, merge: 2}}\n": {
			"per_title.min_rate 0: want 0.05 to 1", "per_title.max_rate 0.5: want 1 to 4", "per_title.headroom 0.9: want 1 to 10", "per_title.merge 2: want 0.3 to 1"},
		"version: 1\nprofiles:\n  - {name: a, per_title: {min_rate: .nan}}\n": {"per_title.min_rate NaN"},
		"version: 1\nprofiles:\n  - {name: a, per_title: {minrate: 0.5}}\n":   {"minrate"},
		"version: 1\nprofiles:\n  - {name: a, per_title: yes please}\n":       {"per_title"},
		"version: 1\nprofiles:\n  - {crf: 20}\n":                              {"name"},
	} {
		_, err := LoadProfiles(strings.NewReader(text), 2)
		for _, w := range want {
			require.ErrorContains(t, err, w, "%q", text)
		}
	}
}

func FuzzLoadProfiles(f *testing.F) {
	f.Add("version: 1\nprofiles:\n  - name: archive\n    crf: 18\n")
	f.Add("version: 1\nprofiles: [{name: &a x, preset: *a}]\n")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := LoadProfiles(strings.NewReader(s), 2)
		if err != nil {
			return
		}
		for name, p := range all {
			if p.Name != name || p.Validate() != nil {
				t.Fatalf("%q: %+v", name, p)
			}
		}
	})
}
