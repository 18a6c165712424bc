// Package natshealth finds NATS servers that only a restart helps. A server that once
// couldn't write, because its disk was full, ends JetStream and goes on without, also
// when there is room again: its replicas of all streams are lost until it is restarted,
// and two such servers of three leave the streams without a quorum.
package natshealth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/ask"
)

// Settling is how long after its start a server may be without JetStream: it may be
// reading its streams.
const Settling = time.Minute

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// Ready says why the server isn't healthy: JetStream is on, and in a cluster it has a
// leader and is current.
func Ready(ctx context.Context, monitor string) error {
	res, body, err := ask.Once(ctx, monitor+"/healthz", maxAnswer)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s/healthz: status %d: %s", monitor, res.StatusCode, strings.TrimSpace(string(body)))
	}
	return err
}

// Lost says why the server with a monitoring URL (http://host:8222) needs a restart. It
// is nil for one that has JetStream, has started less than settling ago, or doesn't
// answer, which may have other reasons.
func Lost(ctx context.Context, monitor string, settling time.Duration) error {
	res, body, err := ask.Once(ctx, monitor+"/healthz?js-enabled-only=true", maxAnswer)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable {
		return nil
	}
	var health struct{ Error string }
	if err := json.Unmarshal(body, &health); err != nil || !strings.Contains(health.Error, "not enabled") {
		return nil
	}
	if res, body, err = ask.Once(ctx, monitor+"/varz", maxAnswer); err != nil || res.StatusCode != http.StatusOK {
		return nil
	}
	var server struct{ Start, Now time.Time }
	if err := json.Unmarshal(body, &server); err != nil || server.Now.Sub(server.Start) < settling {
		return nil
	}
	return fmt.Errorf("it lost its streams and doesn't take them up again: %s", health.Error)
}
