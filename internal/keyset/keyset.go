package keyset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// lifetime of a key: expiry is the last resort when nobody rotates.
const lifetime = 10 * 365 * 24 * time.Hour

// Ring is a platform's keys: the secrets directory and the published set.
type Ring struct {
	// Dir is the secrets directory, with the root's private half.
	Dir   string
	Store *objects.Store
}

// Set returns the published set.
func (r *Ring) Set(ctx context.Context) (*token.KeySet, error) {
	root, err := r.root()
	if err != nil {
		return nil, err
	}
	return journal.NewestKeys(ctx, r.Store, root.Public())
}

func (r *Ring) root() (*token.Signer, error) {
	b, err := os.ReadFile(filepath.Join(r.Dir, token.RootKeyFile))
	if err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	s, err := token.ParseSigner(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(r.Dir, token.RootKeyFile), err)
	}
	return s, nil
}

// Rotate makes and publishes a new key for a use, and returns its key id. A
// session key is a region's, which may be new.
func (r *Ring) Rotate(ctx context.Context, use token.Use, region string) (kid string, err error) {
	stem, file := string(use), ""
	switch {
	case (use == token.UseSession) != (region != ""):
		return "", errors.New("session keys, and only they, are a region's: name it with --region")
	case use == token.UseSession:
		stem, file = stem+"-"+region, token.SessionKeyFile(region)
	case use == token.UsePlayback:
		file = token.PlaybackKeyFile
	case use == token.UseRecord:
		file = token.RecordKeyFile
	default:
		return "", fmt.Errorf("no keys are for %q: want %s, %s or %s", use, token.UsePlayback, token.UseRecord, token.UseSession)
	}
	var made *token.Signer
	err = r.change(ctx, func(ks *token.KeySet) error {
		n := 1
		for ; slices.ContainsFunc(ks.Keys, func(k token.Key) bool { return k.KID == fmt.Sprintf("%s-%d", stem, n) }); n++ {
		}
		var err error
		if made, err = token.NewSigner(fmt.Sprintf("%s-%d", stem, n)); err != nil {
			return err
		}
		now := time.Now().UTC().Truncate(time.Second)
		ks.Keys = append(ks.Keys, token.Key{KID: made.KID, Use: use, Region: region, Public: made.Public(), NotBefore: now, NotAfter: now.Add(lifetime)})
		return nil
	})
	if err != nil {
		return "", err
	}
	return made.KID, durable.Write(filepath.Join(r.Dir, file), []byte(made.Reveal()+"\n"), 0o600)
}

// Revoke ends a key, what it has signed, and the sessions that began with it. A
// key that is in use is to be rotated first.
func (r *Ring) Revoke(ctx context.Context, kid string) error {
	inUse, err := r.inUse()
	if err != nil {
		return err
	}
	if file, ok := inUse[kid]; ok {
		return fmt.Errorf("%s is the key in %s: rotate it first, and restart who signs with it", kid, filepath.Join(r.Dir, file))
	}
	return r.change(ctx, func(ks *token.KeySet) error {
		i := slices.IndexFunc(ks.Keys, func(k token.Key) bool { return k.KID == kid })
		switch {
		case i < 0:
			return fmt.Errorf("no key %q is in the set", kid)
		case ks.Keys[i].Use == token.UseRecord:
			return fmt.Errorf("%s signed records: revoked, every video it published would be gone; rotate it, and have its videos published again first", kid)
		}
		ks.Keys[i].Revoked = true
		return nil
	})
}

// inUse are the key ids of the private halves in the directory, with their files.
func (r *Ring) inUse() (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(r.Dir, "*.key"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range files {
		name := filepath.Base(f)
		if name != token.PlaybackKeyFile && name != token.RecordKeyFile && !strings.HasPrefix(name, "session-") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		s, err := token.ParseSigner(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out[s.KID] = name
	}
	return out, nil
}

// change publishes the next set, and keeps it in the directory.
func (r *Ring) change(ctx context.Context, change func(*token.KeySet) error) error {
	root, err := r.root()
	if err != nil {
		return err
	}
	ks, err := journal.NewestKeys(ctx, r.Store, root.Public())
	if err != nil {
		return fmt.Errorf("published key set: %w", err)
	}
	if err := change(ks); err != nil {
		return err
	}
	ks.N++
	body, err := token.SignKeySet(*ks, root)
	if err != nil {
		return err
	}
	if err := journal.WriteKeys(ctx, r.Store, ks.N, body); err != nil {
		return err
	}
	return durable.Write(filepath.Join(r.Dir, token.KeySetFile), append(body, '\n'), 0o600)
}
