package journal

import (
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/token"
)

// Purge is one entry of the purges journal.
type Purge struct {
	// N is the entry's number.
	N  int64     `json:"n"`
	At time.Time `json:"at"`
	// Assets whose objects edges drop, and whose playback records so far are void.
	Assets []Void `json:"assets,omitempty"`
	// JTIs are the TokenNames of revoked playback tokens; their sessions end with them.
	JTIs []string `json:"jtis,omitempty"`
	// Revoking is the number of the newest earlier entry with JTIs, 0 if there is
	// none: an edge that starts at the newest purge finds all revoked tokens by it.
	Revoking int64 `json:"revoking,omitempty"`
}

// TokenName is what a purge calls a playback token: its asset and its jti, so that
// whoever may revoke an asset's tokens can't end those of others.
func TokenName(asset, jti string) string { return asset + "/" + jti }

// Void says that an asset's playback records up to number N allow nothing any
// more. A later record may allow it again.
type Void struct {
	Asset string `json:"asset"`
	N     int64  `json:"n"`
}

const purgeType = "meridian-purge"

// SignPurge returns the entry's bytes as they are stored, signed by a record key.
func SignPurge(p Purge, s *token.Signer) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return token.Sign(p, purgeType, s)
}

// VerifyPurge checks and decodes a stored entry.
func VerifyPurge(b []byte, ks *token.KeySet, now time.Time) (Purge, error) {
	var p Purge
	if err := token.Verify(b, purgeType, ks, token.UseRecord, now, &p); err != nil {
		return Purge{}, fmt.Errorf("purge: %w", err)
	}
	if err := p.check(); err != nil {
		return Purge{}, fmt.Errorf("%w: %w", token.ErrForged, err)
	}
	return p, nil
}

func (p Purge) check() error {
	if p.N < 1 || p.Revoking < 0 || p.Revoking >= p.N {
		return fmt.Errorf("purge %d, revoking %d: want a positive number and an earlier one", p.N, p.Revoking)
	}
	for _, v := range p.Assets {
		if !hls.ValidAssetID(v.Asset) || v.N < 1 {
			return fmt.Errorf("purge %d: asset %q, n %d: want an asset id and a positive number", p.N, v.Asset, v.N)
		}
	}
	return nil
}
