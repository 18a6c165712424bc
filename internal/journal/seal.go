package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrSealed: an entry can't be opened. It was sealed with another key, or for
// another place, or somebody changed it.
var ErrSealed = errors.New("sealed entry can't be opened: it was sealed with another key, or somebody changed it")

// MinSealSecret is how many characters a secret must have to seal with.
const MinSealSecret = 32

// SealKey seals entries: AES-256-GCM with a random nonce (NIST SP 800-38D, 8.2.2),
// the object's key as additional data, so that an entry can't be passed off as
// another. Made by NewSealKey; the zero value is of no use. Safe for concurrent use.
type SealKey struct{ aead cipher.AEAD }

// NewSealKey derives the key from a secret of at least MinSealSecret characters
// (HKDF-SHA-256, RFC 5869). It never prints.
func NewSealKey(secret string) (SealKey, error) {
	if len(secret) < MinSealSecret {
		return SealKey{}, fmt.Errorf("want at least %d random characters", MinSealSecret)
	}
	k, err := hkdf.Key(sha256.New, []byte(secret), nil, "meridian sealed journal 1", 32)
	if err != nil {
		return SealKey{}, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return SealKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return SealKey{aead}, err
}

// String hides the key.
func (SealKey) String() string { return "[secret]" }

// sealedEntry is an entry as it is stored.
type sealedEntry struct {
	V      int    `json:"v"`
	Sealed []byte `json:"sealed"`
}

// seal returns the bytes to store under an object key.
func (k SealKey) seal(object string, plain []byte) ([]byte, error) {
	return json.Marshal(sealedEntry{V: 1, Sealed: k.aead.Seal(nil, nil, plain, []byte(object))})
}

// open is the reverse of seal; ErrSealed when it wasn't.
func (k SealKey) open(object string, b []byte) ([]byte, error) {
	var e sealedEntry
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", object, ErrSealed, err)
	}
	if e.V != 1 {
		return nil, fmt.Errorf("%s: %w: version %d", object, ErrSealed, e.V)
	}
	plain, err := k.aead.Open(nil, nil, e.Sealed, []byte(object))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, ErrSealed)
	}
	return plain, nil
}
