package health

import (
	"encoding/json"
	"fmt"
)

// Report limits: a report of a hundred edges is some kilobytes.
const (
	maxReportBytes = 64 << 10
	maxNameBytes   = 64
)

// report is what a router tells the others. It is sent on health.{region}.
type report struct {
	V int `json:"v"`
	// Router tells the routers of one region apart.
	Router  string          `json:"router"`
	Region  string          `json:"region"`
	Targets map[string]view `json:"targets"`
}

// view is how one router sees one target.
type view struct {
	Up  bool   `json:"up"`
	Why string `json:"why,omitempty"`
}

func (r report) encode() ([]byte, error) {
	r.V = 1
	return json.Marshal(r)
}

// parseReport refuses what another version or a stranger might send.
func parseReport(b []byte) (report, error) {
	var r report
	if len(b) > maxReportBytes {
		return r, fmt.Errorf("health report of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("health report: %w", err)
	}
	if r.V != 1 || r.Router == "" || len(r.Router) > maxNameBytes || r.Region == "" || len(r.Region) > maxNameBytes {
		return r, fmt.Errorf("health report: version %d, router %.64q, region %.64q", r.V, r.Router, r.Region)
	}
	return r, nil
}
