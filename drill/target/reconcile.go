package target

import (
	"encoding/json"

	"github.com/meridian-video/meridian/internal/objects/repair"
)

// parseReport reads the report a check printed; false if it made none.
func parseReport(b []byte) (repair.Report, bool) {
	var r repair.Report
	if json.Unmarshal(b, &r) != nil || len(r.Regions) == 0 {
		return repair.Report{}, false
	}
	return r, true
}
