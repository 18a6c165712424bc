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
		"version: 1\nprofiles:\n  - {crf: 20}\n":                                        {"name"},
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
