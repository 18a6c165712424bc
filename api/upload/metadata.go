package upload

import (
	"encoding/base64"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/playback"
)

// Limits of what a client tells about a file.
const (
	MaxTitle       = 500
	maxMetadata    = 4 << 10
	maxMetadataKey = 64
)

var metadataKey = regexp.MustCompile(`^[!-+\--~]{1,64}$`) // ASCII without spaces and commas

// profileName is the form; encoders know which ones there are.
var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// checkMetadata refuses an Upload-Metadata header that tusd would read in part:
// a value lost silently is worse than a refusal.
func checkMetadata(header string) error {
	bad := func(format string, a ...any) error {
		return problem.Invalid(problem.Field{Field: "Upload-Metadata", Detail: fmt.Sprintf(format, a...)})
	}
	if len(header) > maxMetadata {
		return bad("send at most %d bytes", maxMetadata)
	}
	if strings.TrimSpace(header) == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(header, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), " ")
		if !metadataKey.MatchString(key) {
			return bad("keys have 1 to %d printable ASCII characters without space and comma", maxMetadataKey)
		}
		if seen[key] {
			return bad("send key %q once", key)
		}
		seen[key] = true
		b, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return bad("the value of %q isn't base64", key)
		}
		if !utf8.Valid(b) || strings.ContainsRune(string(b), 0) {
			return bad("the value of %q isn't UTF-8 text", key)
		}
	}
	return nil
}

type metadata struct {
	asset, title, filename, contentType string
	visibility                          playback.Visibility
}

// parseMetadata reads the keys that mean something here; others are kept as they are.
func parseMetadata(m map[string]string) (metadata, error) {
	out := metadata{asset: m["asset"], title: strings.TrimSpace(m["title"]), visibility: playback.Visibility(m["visibility"])}
	for _, key := range []string{"filename", "name"} { // "name" is what some tus clients send
		if out.filename == "" {
			out.filename = cleanName(m[key])
		}
	}
	for _, key := range []string{"filetype", "type"} {
		if out.contentType == "" {
			out.contentType = m[key]
		}
	}
	if out.title == "" {
		out.title = TitleOf(out.filename)
	}
	var bad []problem.Field
	if out.asset != "" && !uploadID.MatchString(out.asset) {
		bad = append(bad, problem.Field{Field: "Upload-Metadata asset", Detail: "send the id of an asset of yours"})
	}
	if utf8.RuneCountInString(out.title) > MaxTitle {
		bad = append(bad, problem.Field{Field: "Upload-Metadata title", Detail: fmt.Sprintf("send at most %d characters", MaxTitle)})
	}
	switch out.visibility {
	case "", playback.Public, playback.Unlisted, playback.Private:
	default:
		bad = append(bad, problem.Field{Field: "Upload-Metadata visibility", Detail: "send public, unlisted or private"})
	}
	if p := m[catalog.ProfileKey]; p != "" && !profileName.MatchString(p) {
		bad = append(bad, problem.Field{Field: "Upload-Metadata profile", Detail: "send the name of an encoding profile, or leave it out"})
	}
	if len(bad) > 0 {
		return metadata{}, problem.Invalid(bad...)
	}
	return out, nil
}

// TitleOf makes a title of a file name.
func TitleOf(filename string) string {
	name := strings.TrimSpace(strings.TrimSuffix(filename, path.Ext(filename)))
	if name == "" {
		name = filename
	}
	if name == "" {
		return "Untitled"
	}
	r := []rune(name)
	return string(r[:min(len(r), MaxTitle)])
}

// cleanName keeps the last element of a path, whatever system it is from, without control characters.
func cleanName(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, name)
	if name == "." || name == ".." {
		return ""
	}
	return name
}
