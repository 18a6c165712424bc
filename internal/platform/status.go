package platform

import (
	"context"
	"time"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
)

// Status is a running platform as `meridian status --json` prints it.
type Status struct {
	Isolated bool           `json:"isolated"`
	Regions  []RegionStatus `json:"regions"`
	// Namespaces are the network namespaces of isolated regions and of the viewers
	// near them, as paths that can be entered (nsenter --net=PATH).
	Namespaces map[string]string `json:"namespaces,omitempty"`
}

// RegionStatus is a region and its processes.
type RegionStatus struct {
	Name      string    `json:"name"`
	Condition Condition `json:"condition"`
	Since     time.Time `json:"since"`
	// Silence is the direction of a silent region's silence: in, out or both.
	Silence   string             `json:"silence,omitempty"`
	Problem   string             `json:"problem,omitempty"`
	Processes []supervise.Status `json:"processes"`
}

func (p *platform) status(ctx context.Context) Status {
	out := Status{Isolated: p.opt.Isolated, Namespaces: p.namespaces(), Regions: make([]RegionStatus, len(p.sites))}
	p.eachSite(func(i int, s *site) {
		v := s.view()
		r := RegionStatus{Name: s.region.Name, Condition: v.condition(), Since: v.since,
			Silence: directionName(v.silence), Problem: v.problem, Processes: s.place.status(ctx)}
		if v.base == Up && v.problem != "" && p.whole(s.region, r.Processes) {
			// What its start waited for in vain has come.
			s.solved(v.problem)
			r.Problem = ""
		}
		out.Regions[i] = r
	})
	return out
}

// whole reports whether all processes of a region are there and ready.
func (p *platform) whole(r region.Region, processes []supervise.Status) bool {
	ready := map[string]bool{}
	for _, s := range processes {
		ready[s.Name] = s.State == supervise.Ready
	}
	order := stopOrder(r)
	if p.opt.StoresOnly {
		order = order[1:]
	}
	for _, names := range order {
		for _, name := range names {
			quorum := name == procPostgres || name == procEtcd
			if !ready[name] && (r.Control || !quorum) {
				return false
			}
		}
	}
	return true
}
