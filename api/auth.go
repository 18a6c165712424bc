package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
)

const (
	// keyFor is how long a key is taken as valid without asking: a revoked key
	// lives this long in other processes.
	keyFor = 5 * time.Second
	// maxKeys bounds the keys remembered.
	maxKeys = 4096
)

// keyring remembers valid keys for a moment by their hash, so that a request
// usually costs no query. The secret itself isn't kept, and comparing is of
// hashes of 160 random bits, so that timing tells nothing of a key.
type keyring struct {
	authenticate func(ctx context.Context, secret string) (catalog.APIKey, error)
	now          func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownKey
}

type knownKey struct {
	key   catalog.APIKey
	until time.Time
}

func newKeyring(authenticate func(context.Context, string) (catalog.APIKey, error)) *keyring {
	return &keyring{authenticate: authenticate, now: time.Now, known: map[[sha256.Size]byte]knownKey{}}
}

func (k *keyring) get(ctx context.Context, secret string) (catalog.APIKey, error) {
	hash := sha256.Sum256([]byte(secret))
	k.mu.Lock()
	have, ok := k.known[hash]
	k.mu.Unlock()
	if ok && k.now().Before(have.until) {
		return have.key, nil
	}
	key, err := k.authenticate(ctx, secret)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		if errors.Is(err, catalog.ErrUnauthorized) {
			delete(k.known, hash)
		}
		return catalog.APIKey{}, err
	}
	if len(k.known) >= maxKeys {
		clear(k.known)
	}
	k.known[hash] = knownKey{key, k.now().Add(keyFor)}
	return key, nil
}

// forget drops a key that was revoked here.
func (k *keyring) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for h, known := range k.known {
		if known.key.ID == id {
			delete(k.known, h)
		}
	}
}

const keyContext = "meridian.key"

// keyOf is the authenticated key of a request.
func keyOf(c echo.Context) catalog.APIKey {
	key, _ := c.Get(keyContext).(catalog.APIKey)
	return key
}

// need lets a request pass whose key has the role.
func (s *Server) need(role catalog.Role) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			secret, ok := bearer(c.Request().Header.Get(echo.HeaderAuthorization))
			if !ok {
				return problem.NoKey()
			}
			key, err := s.keys.get(c.Request().Context(), secret)
			if err != nil {
				return err
			}
			c.Set(keyContext, key)
			if !key.Role.Allows(role) {
				return problem.New(problem.Forbidden, "Use an API key with role %s: this one has role %s.", role, key.Role)
			}
			return next(c)
		}
	}
}

func bearer(header string) (string, bool) {
	scheme, secret, ok := strings.Cut(header, " ")
	secret = strings.TrimSpace(secret)
	return secret, ok && strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(secret, catalog.KeyPrefix)
}
