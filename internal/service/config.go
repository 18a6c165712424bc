package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// YAMLFile is a kong configuration loader for --config files. Keys are flag
// names ("admin-listen: …"). Unknown keys are errors, so that a typing mistake
// never silently keeps a default.
func YAMLFile(r io.Reader) (kong.Resolver, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	name := "the configuration file"
	if f, ok := r.(interface{ Name() string }); ok {
		name = f.Name()
	}
	values := map[string]any{}
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &fileResolver{name: name, values: values}, nil
}

type fileResolver struct {
	name    string
	values  map[string]any
	checked bool
}

// Validate does nothing: kong calls it only after the values have been used, and
// a typing mistake must be named before what follows from it.
func (f *fileResolver) Validate(*kong.Application) error { return nil }

func (f *fileResolver) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !f.checked {
		if err := f.check(ctx.Model); err != nil {
			return nil, err
		}
		f.checked = true
	}
	v, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	return v, nil
}

// check compares keys with the flags of all commands: one file may configure several.
func (f *fileResolver) check(app *kong.Application) error {
	var known []string
	err := kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok {
			known = append(known, flag.Name)
		}
		return next(nil)
	})
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if !slices.Contains(known, key) {
			err = errors.Join(err, fmt.Errorf("%s: unknown setting %q", f.name, key))
		}
	}
	return err
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
