package fleet

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
)

const (
	// penalty is how long a pathway that failed is avoided; twice as long after
	// each further failure until it serves again, penaltyDoublings times at most.
	penalty          = 10 * time.Second
	penaltyDoublings = 4
	// Bounds of what a steering manifest may say.
	maxManifest = 64 << 10
	maxPathways = 32
	defaultTTL  = 300 * time.Second
	maxTTL      = time.Hour
)

// Manifest is a steering manifest (RFC 8216bis 7.2).
type Manifest struct {
	TTL      time.Duration
	Reload   string
	Priority []string
	Clones   []Clone
}

// Clone makes a pathway from another one (RFC 8216bis 7.3).
type Clone struct {
	Base, ID string
	// Host replaces the host and port of every URI if it isn't empty.
	Host string
	// Params are set in every URI's query.
	Params map[string]string
}

// ParseManifest reads a steering manifest.
func ParseManifest(b []byte) (Manifest, error) {
	var in struct {
		Version  int      `json:"VERSION"`
		TTL      *float64 `json:"TTL"`
		Reload   string   `json:"RELOAD-URI"`
		Priority []string `json:"PATHWAY-PRIORITY"`
		Clones   []struct {
			Base    string `json:"BASE-ID"`
			ID      string `json:"ID"`
			Replace struct {
				Host   string            `json:"HOST"`
				Params map[string]string `json:"PARAMS"`
			} `json:"URI-REPLACEMENT"`
		} `json:"PATHWAY-CLONES"`
	}
	if len(b) > maxManifest {
		return Manifest{}, fmt.Errorf("steering manifest: %d bytes, more than %d", len(b), maxManifest)
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return Manifest{}, fmt.Errorf("steering manifest: %w", err)
	}
	if in.Version != 1 || len(in.Priority) == 0 || len(in.Priority) > maxPathways || len(in.Clones) > maxPathways {
		return Manifest{}, fmt.Errorf("steering manifest: want version 1 and 1 to %d pathways, have version %d and %d", maxPathways, in.Version, len(in.Priority))
	}
	m := Manifest{TTL: defaultTTL, Reload: in.Reload, Priority: in.Priority}
	if in.TTL != nil {
		m.TTL = max(time.Second, min(maxTTL, time.Duration(min(*in.TTL, maxTTL.Seconds())*float64(time.Second))))
	}
	for _, c := range in.Clones {
		if c.Base == "" || c.ID == "" {
			return Manifest{}, fmt.Errorf("steering manifest: a clone without ID or BASE-ID")
		}
		m.Clones = append(m.Clones, Clone{Base: c.Base, ID: c.ID, Host: c.Replace.Host, Params: c.Replace.Params})
	}
	return m, nil
}

// inlineManifest reads the manifest of a data: URI (RFC 2397).
func inlineManifest(uri string) (Manifest, error) {
	_, data, ok := strings.Cut(uri, ",")
	text, err := url.PathUnescape(data)
	if !ok || err != nil {
		return Manifest{}, fmt.Errorf("steering manifest: the data URI can't be read")
	}
	return ParseManifest([]byte(text))
}

// pathways is which pathway a session uses, and why not the others.
type pathways struct {
	variants map[string][]hls.Variant // by pathway, lowest bandwidth first
	audio    map[string][]hls.AudioRendition
	order    []string
	current  string
	// penalised since; failures without a success since, for how long.
	penalised map[string]time.Time
	failures  map[string]int
}

func newPathways(m hls.MasterInfo) *pathways {
	p := &pathways{variants: map[string][]hls.Variant{}, audio: map[string][]hls.AudioRendition{}, penalised: map[string]time.Time{}, failures: map[string]int{}}
	for _, v := range m.Variants {
		if len(p.variants[v.Pathway]) == 0 {
			p.order = append(p.order, v.Pathway)
		}
		p.variants[v.Pathway] = append(p.variants[v.Pathway], v)
	}
	for _, a := range m.Audio {
		p.audio[a.Group] = append(p.audio[a.Group], a)
	}
	p.current = p.order[0]
	if _, ok := p.variants[m.InitialPathway]; ok {
		p.current = m.InitialPathway
	}
	return p
}

// apply follows a steering manifest and reports whether that changes the pathway.
func (p *pathways) apply(m Manifest, now time.Time) bool {
	for _, c := range m.Clones {
		p.clone(c)
	}
	for id, since := range p.penalised {
		if now.Sub(since) >= penalty<<min(max(p.failures[id]-1, 0), penaltyDoublings) {
			delete(p.penalised, id)
		}
	}
	var order []string
	for _, id := range m.Priority {
		if len(p.variants[id]) > 0 && !slices.Contains(order, id) {
			order = append(order, id)
		}
	}
	if len(order) == 0 {
		return false // it names nothing we have: stay (RFC 8216bis 7.4)
	}
	p.order = order
	return p.choose()
}

// choose takes the first pathway without a penalty; all have one: the present stays.
func (p *pathways) choose() bool {
	for _, id := range p.order {
		if _, bad := p.penalised[id]; !bad {
			moved := id != p.current
			p.current = id
			return moved
		}
	}
	return false
}

// fail penalises the current pathway and moves on; false when none is left.
func (p *pathways) fail(now time.Time) bool {
	p.penalised[p.current] = now
	p.failures[p.current]++
	return p.choose()
}

// served forgets the failures of the current pathway.
func (p *pathways) served() { delete(p.failures, p.current) }

// forgive drops all penalties and begins with another pathway than the present.
func (p *pathways) forgive() {
	clear(p.penalised)
	if len(p.order) > 1 {
		at := slices.Index(p.order, p.current)
		p.current = p.order[(at+1)%len(p.order)]
	}
}

func (p *pathways) clone(c Clone) {
	if len(p.variants[c.ID]) > 0 || len(p.variants[c.Base]) == 0 || len(p.variants) >= maxPathways {
		return
	}
	group := func(g string) string { return g + "\x00" + c.ID }
	for _, v := range p.variants[c.Base] {
		if v.AudioGroup != "" {
			if _, ok := p.audio[group(v.AudioGroup)]; !ok {
				for _, a := range p.audio[v.AudioGroup] {
					a.Group, a.URI = group(v.AudioGroup), c.replace(a.URI)
					p.audio[a.Group] = append(p.audio[a.Group], a)
				}
			}
			v.AudioGroup = group(v.AudioGroup)
		}
		v.Pathway, v.URI = c.ID, c.replace(v.URI)
		p.variants[c.ID] = append(p.variants[c.ID], v)
	}
}

func (c Clone) replace(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri
	}
	if c.Host != "" {
		if port := u.Port(); port != "" && !strings.Contains(c.Host, ":") {
			u.Host = c.Host + ":" + port // as hls.js does: the port stays
		} else {
			u.Host = c.Host
		}
	}
	if len(c.Params) > 0 {
		q := u.Query()
		for k, v := range c.Params {
			q.Set(k, v)
		}
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// reload is where to ask for the next manifest (RFC 8216bis 7.1).
func reload(uri, pathway string, throughput float64) string {
	sep := "?"
	if strings.Contains(uri, "?") {
		sep = "&"
	}
	return fmt.Sprintf("%s%s_HLS_pathway=%s&_HLS_throughput=%d", uri, sep, url.QueryEscape(`"`+pathway+`"`), int64(throughput))
}
