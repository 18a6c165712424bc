package scenario

import (
	"embed"
	"fmt"
	"path"
	"slices"
)

//go:embed builtin/*.yaml
var files embed.FS

// BuiltIn returns the scenarios of this program, in the order of their file names.
func BuiltIn() ([]Scenario, error) {
	entries, err := files.ReadDir("builtin")
	if err != nil {
		return nil, err
	}
	var out []Scenario
	for _, e := range entries {
		b, err := files.ReadFile(path.Join("builtin", e.Name()))
		if err != nil {
			return nil, err
		}
		s, err := Parse(e.Name(), b)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(x Scenario) bool { return x.Name == s.Name }) {
			return nil, fmt.Errorf("scenario %s: two have this name", s.Name)
		}
		out = append(out, s)
	}
	return out, nil
}
