package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/meridian-video/meridian/internal/catalog"
)

// DeadLetter is a task that failed for good through no fault of its source.
type DeadLetter struct {
	Task     string          `json:"task"`
	Asset    string          `json:"asset"`
	Attempt  int             `json:"attempt"`
	Failures int             `json:"failures"`
	Failure  catalog.Failure `json:"failure"`
}

func (c *Conn) deadLetter(ctx context.Context, t catalog.DeadTask) error {
	b, err := json.Marshal(DeadLetter{Task: t.ID, Asset: t.Asset, Attempt: t.Attempt, Failures: t.Failures, Failure: t.Failure})
	if err != nil {
		return fmt.Errorf("dead letter %s: %w", t.ID, err)
	}
	return c.publish(ctx, "dead."+string(t.Kind), b, fmt.Sprintf("%s/%d", t.ID, t.Attempt))
}
