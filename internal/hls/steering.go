package hls

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
)

// SteeringContentType is the media type of steering manifests.
const SteeringContentType = "application/json"

// Steering is a content steering manifest (RFC 8216bis section 7.2).
type Steering struct {
	// TTL in seconds until the player asks again.
	TTL int
	// ReloadURI is where it asks: absolute.
	ReloadURI string
	// Priority lists all pathways, best first; dead ones stay, last, because a
	// list of one disables the player's own fail-over.
	Priority []string
}

// Encode returns the manifest's JSON.
func (s Steering) Encode() ([]byte, error) {
	if s.TTL < 1 || len(s.Priority) == 0 {
		return nil, fmt.Errorf("steering manifest: want a positive TTL and at least one pathway, have %+v", s)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Version  int      `json:"VERSION"`
		TTL      int      `json:"TTL"`
		Reload   string   `json:"RELOAD-URI,omitempty"`
		Priority []string `json:"PATHWAY-PRIORITY"`
	}{1, s.TTL, s.ReloadURI, s.Priority})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// DataURI returns the manifest as an RFC 2397 URI, so that a session's first
// steering answer needs no request: a player whose first one fails asks again
// only after minutes.
func (s Steering) DataURI() (string, error) {
	b, err := s.Encode()
	if err != nil {
		return "", err
	}
	return "data:" + SteeringContentType + "," + url.PathEscape(string(b)), nil
}
