package peer

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// ProofField is the request header field in which an edge proves to be one:
// "{name} {Unix seconds} {MAC}".
const ProofField = "Meridian-Peer"

// skew is how old a proof may be, and how far the edges' clocks may part.
const skew = time.Minute

// ErrProof: the request isn't of an edge of this region.
var ErrProof = errors.New("not an edge of this region")

// Key is what the edges of a region share.
type Key struct{ secret []byte }

// NewKey derives the key from a secret all edges of the region have (HKDF, RFC 5869).
func NewKey(secret string) (Key, error) {
	k, err := hkdf.Key(sha256.New, []byte(secret), nil, "meridian peer fill 1", sha256.Size)
	return Key{k}, err
}

func (k Key) mac(name, at, path string) string {
	h := hmac.New(sha256.New, k.secret)
	_, _ = h.Write([]byte("GET\n" + path + "\n" + name + "\n" + at))
	return hex.EncodeToString(h.Sum(nil))
}

// Prove returns the field's value for a request of path by the edge name.
func (k Key) Prove(name, path string, now time.Time) string {
	at := strconv.FormatInt(now.Unix(), 10)
	return name + " " + at + " " + k.mac(name, at, path)
}

// Check returns the name of the edge that asks for path, or ErrProof.
func (k Key) Check(proof, path string, now time.Time) (string, error) {
	name, rest, ok := strings.Cut(proof, " ")
	at, mac, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || len(proof) > 256 || !hmac.Equal([]byte(mac), []byte(k.mac(name, at, path))) {
		return "", ErrProof
	}
	sec, err := strconv.ParseInt(at, 10, 64)
	if err != nil || now.Sub(time.Unix(sec, 0)).Abs() > skew {
		return "", ErrProof
	}
	return name, nil
}
