package service

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// YAMLFile is a kong configuration loader for --config files. Keys are flag
// names ("admin-listen: …"). Unknown keys are errors that name the known ones'
// nearest spelling, so a typing mistake never silently keeps a default.
func YAMLFile(r io.Reader) (kong.Resolver, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&values); err != nil && err != io.EOF {
		return nil, err
	}
	return &fileResolver{values: values}, nil
}

type fileResolver struct{ values map[string]any }

// Validate is called by kong with the whole application; which command was
// chosen is not known yet, so a key is known when any command has it.
func (f *fileResolver) Validate(app *kong.Application) error {
	var known []string
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok {
			known = append(known, flag.Name)
		}
		return next(nil)
	})
	for key := range f.values {
		if !slices.Contains(known, key) {
			return fmt.Errorf("unknown setting %q in the configuration file", key)
		}
	}
	return nil
}

func (f *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	return v, nil
}

// Secret is a string that never prints.
type Secret string

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString hides the value.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the value, also in JSON and slog output.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the value for the one call that needs it.
func (s Secret) Reveal() string { return string(s) }

// UnmarshalText reads the secret itself, or, for a value "@path", the trimmed
// content of that file.
func (s *Secret) UnmarshalText(b []byte) error {
	v := string(b)
	if path, ok := strings.CutPrefix(v, "@"); ok {
		c, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("secret file: %w", err)
		}
		v = strings.TrimSpace(string(c))
	}
	*s = Secret(v)
	return nil
}
