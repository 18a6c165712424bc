package token

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
)

// Names of the files GenerateSecrets writes.
const (
	RootPublicFile  = "root.pub"
	RootKeyFile     = "root.key"
	RecordKeyFile   = "record.key"
	PlaybackKeyFile = "playback.key"
	KeySetFile      = "keys.json"
)

// SessionKeyFile is the file of a region's session key.
func SessionKeyFile(region string) string { return "session-" + region + ".key" }

// keyLifetime of generated keys. Rotation is a new key set; expiry is only the
// last resort when nobody rotates.
const keyLifetime = 10 * 365 * 24 * time.Hour

// GenerateSecrets makes the platform's keys in dir (0700, files 0600): the root
// pair, the record and playback keys, a session key per region, and the first
// key set. If a key set is there already nothing is changed, so it can be
// called at every start; a directory where a start was cut short is completed.
// A region that the key set doesn't know is an error that says so.
func GenerateSecrets(dir string, regions []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	signer := func(file, kid string) (*Signer, error) {
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err == nil {
			s, err := ParseSigner(string(b))
			if err != nil {
				return nil, fmt.Errorf("secrets: %s: %w", path, err)
			}
			return s, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("secrets: %w", err)
		}
		s, err := NewSigner(kid)
		if err != nil {
			return nil, err
		}
		return s, write(path, s.Reveal())
	}
	root, err := signer(RootKeyFile, rootKID)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, RootPublicFile), FormatPublic(root.Public())); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	ks := KeySet{N: 1}
	add := func(file, kid string, use Use, region string) error {
		s, err := signer(file, kid)
		if err != nil {
			return err
		}
		ks.Keys = append(ks.Keys, Key{KID: s.KID, Use: use, Region: region, Public: s.Public(), NotBefore: now, NotAfter: now.Add(keyLifetime)})
		return nil
	}
	errs := []error{add(RecordKeyFile, "record-1", UseRecord, ""), add(PlaybackKeyFile, "playback-1", UsePlayback, "")}
	for _, r := range regions {
		errs = append(errs, add(SessionKeyFile(r), "session-"+r+"-1", UseSession, r))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	path := filepath.Join(dir, KeySetFile)
	if b, err := os.ReadFile(path); err == nil {
		have, err := VerifyKeySet(b, root.Public())
		if err != nil {
			return fmt.Errorf("secrets: %s: %w", path, err)
		}
		for _, k := range ks.Keys {
			if _, err := have.find(k.KID, k.Use, now); err != nil {
				return fmt.Errorf("secrets: %s: %w; for a new region run `meridian keys rotate session --region` first, else start with a fresh directory", path, err)
			}
		}
		return nil
	}
	b, err := SignKeySet(ks, root)
	if err != nil {
		return err
	}
	return write(path, string(b))
}

// write stores key material for its owner alone.
func write(path, content string) error {
	if err := durable.Write(path, []byte(content+"\n"), 0o600); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	return nil
}
