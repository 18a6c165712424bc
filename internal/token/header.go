package token

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// maxToken bounds what is parsed at all; ours are below 1 KiB.
const maxToken = 4096

// header reads a token's key id and type before anything is verified; only to
// choose which check applies.
func header(tok string) (kid, typ string, err error) {
	head, _, ok := strings.Cut(tok, ".")
	if !ok || len(tok) > maxToken {
		return "", "", fmt.Errorf("%w: not a JWT", ErrForged)
	}
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return "", "", fmt.Errorf("%w: header: %w", ErrForged, err)
	}
	var h struct {
		KID string `json:"kid"`
		Typ string `json:"typ"`
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return "", "", fmt.Errorf("%w: header: %w", ErrForged, err)
	}
	if h.Typ != playbackType && h.Typ != sessionType {
		return "", "", fmt.Errorf("%w: type %q", ErrForged, h.Typ)
	}
	return h.KID, h.Typ, nil
}
