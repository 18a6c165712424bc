package catalog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/meridian-video/meridian/internal/catalog/db"
)

const (
	keyBytes = 20
	// KeyPrefix begins every API key, so that leaked ones are found by scanners.
	KeyPrefix    = "mk_"
	shownOfKey   = len(KeyPrefix) + 6
	minKeyLength = len(KeyPrefix) + 24
)

var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns 128 random bits as 26 characters of lower-case base32.
func NewID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return lower.EncodeToString(b)
}

// CreateKey makes an API key for owner, which is created if needed, and returns
// it together with the secret, shown this once.
func (c *Catalog) CreateKey(ctx context.Context, owner, name string, role Role) (APIKey, string, error) {
	b := make([]byte, keyBytes)
	_, _ = rand.Read(b)
	secret := KeyPrefix + lower.EncodeToString(b)
	key, err := c.putKey(ctx, owner, name, role, secret)
	return key, secret, err
}

// EnsureKey makes secret an admin key of owner. Doing it again changes nothing:
// a key that was revoked stays so.
func (c *Catalog) EnsureKey(ctx context.Context, owner, secret string) error {
	if !strings.HasPrefix(secret, KeyPrefix) || len(secret) < minKeyLength {
		return fmt.Errorf("bootstrap API key: want %q followed by at least %d random characters", KeyPrefix, minKeyLength-len(KeyPrefix))
	}
	_, err := c.putKey(ctx, owner, "bootstrap", RoleAdmin, secret)
	return err
}

func (c *Catalog) putKey(ctx context.Context, owner, name string, role Role, secret string) (APIKey, error) {
	hash := sha256.Sum256([]byte(secret))
	var row db.ApiKey
	err := c.write(ctx, "create API key", func(q *db.Queries) error {
		if err := q.EnsureOwner(ctx, owner); err != nil {
			return err
		}
		var err error
		row, err = q.InsertKey(ctx, db.InsertKeyParams{ID: NewID(), Owner: owner, Name: name, Hash: hash[:], Prefix: secret[:shownOfKey], Role: string(role)})
		return err
	})
	return apiKey(row), err
}

// Authenticate returns the key a secret belongs to, or ErrUnauthorized.
func (c *Catalog) Authenticate(ctx context.Context, secret string) (APIKey, error) {
	if len(secret) < minKeyLength || len(secret) > 256 {
		return APIKey{}, ErrUnauthorized
	}
	hash := sha256.Sum256([]byte(secret))
	var row db.ApiKey
	err := c.read(ctx, "API key", func(ctx context.Context, q *db.Queries) error {
		var err error
		row, err = q.KeyByHash(ctx, hash[:])
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return APIKey{}, ErrUnauthorized
	case err != nil:
		return APIKey{}, err
	case row.RevokedAt != nil:
		return APIKey{}, ErrUnauthorized
	}
	return apiKey(row), nil
}

// RevokeKey makes a key of owner useless, or returns ErrNotFound.
func (c *Catalog) RevokeKey(ctx context.Context, owner, id string) error {
	return c.write(ctx, "revoke API key", func(q *db.Queries) error {
		n, err := q.RevokeKey(ctx, id, owner)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// Keys lists owner's keys, revoked ones included.
func (c *Catalog) Keys(ctx context.Context, owner string) ([]APIKey, error) {
	var out []APIKey
	err := c.read(ctx, "list API keys", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.ListKeys(ctx, owner)
		for _, r := range rows {
			out = append(out, apiKey(r))
		}
		return err
	})
	return out, err
}

func apiKey(r db.ApiKey) APIKey {
	return APIKey{ID: r.ID, Owner: r.Owner, Name: r.Name, Prefix: r.Prefix, Role: Role(r.Role), CreatedAt: r.CreatedAt, RevokedAt: r.RevokedAt}
}
