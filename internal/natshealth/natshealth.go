// Package natshealth finds NATS servers that only a restart helps. A server that once
// couldn't write, because its disk was full, ends JetStream and goes on without, also
// when there is room again: its replicas of all streams are lost until it is restarted,
// and two such servers of three leave the streams without a quorum.
package natshealth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Settling is how long after its start a server may be without JetStream: it may be
// reading its streams.
const Settling = time.Minute

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// Ready says why the server isn't healthy: JetStream is on, and in a cluster it has a
// leader and is current.
func Ready(ctx context.Context, monitor string) error {
	status, body, err := get(ctx, monitor+"/healthz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s/healthz: status %d: %s", monitor, status, strings.TrimSpace(string(body)))
	}
	return err
}

// Lost says why the server with a monitoring URL (http://host:8222) needs a restart. It
// is nil for one that has JetStream, has started less than settling ago, or doesn't
// answer, which may have other reasons.
func Lost(ctx context.Context, monitor string, settling time.Duration) error {
	status, body, err := get(ctx, monitor+"/healthz?js-enabled-only=true")
	if err != nil || status != http.StatusServiceUnavailable {
		return nil
	}
	var health struct{ Error string }
	if err := json.Unmarshal(body, &health); err != nil || !strings.Contains(health.Error, "not enabled") {
		return nil
	}
	if status, body, err = get(ctx, monitor+"/varz"); err != nil || status != http.StatusOK {
		return nil
	}
	var server struct{ Start, Now time.Time }
	if err := json.Unmarshal(body, &server); err != nil || server.Now.Sub(server.Start) < settling {
		return nil
	}
	return fmt.Errorf("it lost its streams and doesn't take them up again: %s", health.Error)
}

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	// One connection a question: a kept one would outlive the process it led to.
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, body, err
}
