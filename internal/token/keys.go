package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Use is what a key may sign.
type Use string

// The uses of keys.
const (
	// UsePlayback signs the tokens that let viewers start a session.
	UsePlayback Use = "playback"
	// UseRecord signs playback records, purges and routing entries.
	UseRecord Use = "record"
	// UseSession signs session tokens; each region has its own.
	UseSession Use = "session"
)

// rootKID is the key id of the root in the signatures of key sets.
const rootKID = "root"

// Key is the public half of a signing key.
type Key struct {
	KID string `json:"kid"`
	Use Use    `json:"use"`
	// Region that holds the private half; session keys only.
	Region string `json:"region,omitempty"`
	// Public is the Ed25519 public key, 32 bytes.
	Public    []byte    `json:"public"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// Revoked ends the key at once, with every session its tokens started.
	Revoked bool `json:"revoked,omitempty"`
}

// KeySet is one entry of the keys journal.
type KeySet struct {
	// N is the entry's number.
	N    int64 `json:"n"`
	Keys []Key `json:"keys"`
}

// find returns the key that may verify a signature of kid for use at now.
func (s *KeySet) find(kid string, use Use, now time.Time) (Key, error) {
	if s == nil {
		return Key{}, fmt.Errorf("%w: no key set yet", ErrUnknownKey)
	}
	i := slices.IndexFunc(s.Keys, func(k Key) bool { return k.KID == kid && k.Use == use })
	if i < 0 {
		return Key{}, fmt.Errorf("%w: no %s key %q", ErrUnknownKey, use, kid)
	}
	k := s.Keys[i]
	switch {
	case k.Revoked:
		return Key{}, fmt.Errorf("%w: key %q", ErrRevoked, kid)
	case now.Before(k.NotBefore.Add(-Skew)) || now.After(k.NotAfter):
		return Key{}, fmt.Errorf("%w: key %q is valid from %s to %s", ErrExpired, kid, k.NotBefore.Format(time.RFC3339), k.NotAfter.Format(time.RFC3339))
	}
	return k, nil
}

// Revoked reports whether the key kid is revoked or gone from the set.
func (s *KeySet) Revoked(kid string) bool {
	i := slices.IndexFunc(s.Keys, func(k Key) bool { return k.KID == kid })
	return i < 0 || s.Keys[i].Revoked
}

// Signer holds a private key.
type Signer struct {
	KID  string
	priv ed25519.PrivateKey
}

// NewSigner makes a key. kid may not contain a dot.
func NewSigner(kid string) (*Signer, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Signer{KID: kid, priv: priv}, nil
}

// ParseSigner reads a signer written by String: "{kid}.{seed}", the 32-byte seed in base64url.
func ParseSigner(s string) (*Signer, error) {
	kid, seed, ok := strings.Cut(strings.TrimSpace(s), ".")
	b, err := base64.RawURLEncoding.DecodeString(seed)
	if !ok || kid == "" || err != nil || len(b) != ed25519.SeedSize {
		return nil, errors.New("signing key: want {kid}.{seed}, the seed 32 bytes in base64url; `meridian secrets` makes them")
	}
	return &Signer{KID: kid, priv: ed25519.NewKeyFromSeed(b)}, nil
}

// Reveal returns the secret in the form ParseSigner reads.
func (s *Signer) Reveal() string {
	return s.KID + "." + base64.RawURLEncoding.EncodeToString(s.priv.Seed())
}

// String hides the private key.
func (s *Signer) String() string { return s.KID + ".[secret]" }

// Public returns the public half.
func (s *Signer) Public() ed25519.PublicKey { return s.priv.Public().(ed25519.PublicKey) }

// ParsePublic reads an Ed25519 public key in base64url.
func ParsePublic(s string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("public key: want 32 bytes in base64url; `meridian secrets` makes them")
	}
	return b, nil
}

// FormatPublic writes a public key in the form ParsePublic reads.
func FormatPublic(k ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(k) }

func (s *Signer) jose(typ string) (jose.Signer, error) {
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: s.priv, KeyID: s.KID}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
}

// Sign returns v as JSON in a compact JWS (RFC 7515) of the given type.
func Sign(v any, typ string, s *Signer) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	signer, err := s.jose(typ)
	if err != nil {
		return nil, err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return nil, err
	}
	out, err := jws.CompactSerialize()
	return []byte(out), err
}

// Verify checks a JWS made by Sign against the key set and decodes it into v.
func Verify(b []byte, typ string, ks *KeySet, use Use, now time.Time, v any) error {
	return verify(b, typ, func(kid string) (ed25519.PublicKey, error) {
		k, err := ks.find(kid, use, now)
		return k.Public, err
	}, v)
}

func verify(b []byte, typ string, key func(kid string) (ed25519.PublicKey, error), v any) error {
	jws, err := jose.ParseSignedCompact(string(b), []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	h := jws.Signatures[0].Protected
	if got, _ := h.ExtraHeaders[jose.HeaderType].(string); got != typ {
		return fmt.Errorf("%w: type %q, want %q", ErrForged, got, typ)
	}
	pub, err := key(h.KeyID)
	if err != nil {
		return err
	}
	payload, err := jws.Verify(pub)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	return nil
}

const keySetType = "meridian-keys"

// SignKeySet signs a key set with the root.
func SignKeySet(ks KeySet, root *Signer) ([]byte, error) {
	return Sign(ks, keySetType, &Signer{KID: rootKID, priv: root.priv})
}

// VerifyKeySet checks a key set against the root's public key.
func VerifyKeySet(b []byte, root ed25519.PublicKey) (KeySet, error) {
	var ks KeySet
	err := verify(b, keySetType, func(kid string) (ed25519.PublicKey, error) {
		if kid != rootKID {
			return nil, fmt.Errorf("%w: key set signed by %q", ErrUnknownKey, kid)
		}
		return root, nil
	}, &ks)
	return ks, err
}
