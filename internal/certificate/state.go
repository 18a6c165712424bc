package certificate

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// State is everything regions share about certificates. The zero value is that
// of a platform without any.
type State struct {
	V int `json:"v"`
	// Files are what the ACME client keeps, by path: accounts, certificates
	// (PEM, .crt), their private keys (.key) and where they are from (.json).
	Files map[string]File `json:"files,omitempty"`
	// Locks by name.
	Locks map[string]Lock `json:"locks,omitempty"`
	// Challenges are the TXT records that the CA looks for.
	Challenges []Challenge `json:"challenges,omitempty"`
}

// File is one of the ACME client's.
type File struct {
	Content  []byte    `json:"content"`
	Modified time.Time `json:"modified"`
}

// Lock is held by Owner, a random name, until it is given back or Until.
type Lock struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Challenge is a TXT record of the zone, until it is taken away or Until.
type Challenge struct {
	// Name without trailing dot: "_acme-challenge.play.example.org".
	Name  string    `json:"name"`
	Value string    `json:"value"`
	Until time.Time `json:"until"`
}

// Same reports whether o is the same record.
func (c Challenge) Same(o Challenge) bool { return c.Name == o.Name && c.Value == o.Value }

const stateVersion = 1

// parseState reads a state; no bytes are the zero value.
func parseState(b []byte) (State, error) {
	var s State
	if b == nil {
		return s, nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	if s.V != stateVersion {
		return State{}, fmt.Errorf("%w: version %d", ErrState, s.V)
	}
	return s, nil
}

// encode drops what has had its time.
func (s State) encode(now time.Time) ([]byte, error) {
	s.V = stateVersion
	maps.DeleteFunc(s.Locks, func(_ string, l Lock) bool { return !now.Before(l.Until) })
	s.Challenges = slices.DeleteFunc(s.Challenges, func(c Challenge) bool { return !now.Before(c.Until) })
	return json.Marshal(s)
}

// pairs calls f with every certificate that has its key.
func (s State) pairs(f func(crt, key []byte)) {
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		base, ok := strings.CutSuffix(p, ".crt")
		if !ok {
			continue
		}
		if key, ok := s.Files[base+".key"]; ok {
			f(s.Files[p].Content, key.Content)
		}
	}
}

// Below returns the paths at or below dir.
func (s State) Below(dir string) []string {
	dir = path.Clean(dir)
	var out []string
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		if p == dir || dir == "." || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out
}
