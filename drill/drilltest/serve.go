package drilltest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/hls"
)

const (
	segmentSize = 24 << 10
	runPath     = "/v/-/" + Asset + "/r1/"
)

var renditions = []hls.Rendition{
	{ID: "v180", Track: "v0", Kind: hls.Video, Codecs: "avc1.64001e", Width: 320, Height: 180, Bandwidth: 250_000},
	{ID: "v360", Track: "v0", Kind: hls.Video, Codecs: "avc1.64001e", Width: 640, Height: 360, Bandwidth: 900_000},
	{ID: "a0", Track: "a0", Kind: hls.Audio, Codecs: "mp4a.40.2", Bandwidth: 64_000, Language: "en", Name: "English", Default: true},
}

// router answers as a router does.
func (s *site) router(w http.ResponseWriter, r *http.Request) {
	edges := s.p.edges(s.p.home(r.RemoteAddr))
	switch {
	case r.URL.Path == "/steer":
		s.steering(w, r, edges).send()
	case r.URL.Path == "/explain":
		s.explain(w)
	case strings.HasPrefix(r.URL.Path, "/v/"):
		e, _, _ := s.p.table.Edge(edges[0])
		u := e.URL + r.URL.Path + "?p=" + strings.Join(s.offered(edges), ",")
		if r.URL.Query().Get("steering") == "0" {
			u += "&steering=0"
		}
		http.Redirect(w, r, u, http.StatusFound)
	default:
		http.NotFound(w, r)
	}
}

// offered are the best region's edges and the best of each other.
func (s *site) offered(edges []string) []string {
	out := edges[:2:2]
	for _, r := range s.p.table.Regions {
		if name := r.Edges[0].Name; !slices.Contains(out, name) && !slices.Contains(out, r.Edges[1].Name) {
			out = append(out, name)
		}
	}
	return out
}

type answer struct {
	w http.ResponseWriter
	m hls.Steering
}

func (a answer) send() {
	b, err := a.m.Encode()
	if err != nil {
		http.Error(a.w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = a.w.Write(b) // the client has gone
}

func (s *site) steering(w http.ResponseWriter, r *http.Request, edges []string) answer {
	var order []string
	asked := strings.Split(r.URL.Query().Get("p"), ",")
	for _, e := range edges {
		if slices.Contains(asked, e) {
			order = append(order, e)
		}
	}
	return answer{w, s.manifest(asked, order)}
}

// manifest is asked for again at a router outside the first pathway's region.
func (s *site) manifest(p, order []string) hls.Steering {
	base := ""
	for _, r := range s.p.table.Regions {
		if base == "" && !strings.HasPrefix(order[0], r.Name) {
			base = r.Router.URL
		}
	}
	return hls.Steering{TTL: 1, ReloadURI: base + "/steer?a=" + Asset + "&p=" + strings.Join(p, ","), Priority: order}
}

func (s *site) explain(w http.ResponseWriter) {
	type edge struct {
		Name string `json:"name"`
		Up   bool   `json:"up"`
	}
	var out struct {
		Regions []struct {
			Edges []edge `json:"edges"`
		} `json:"regions"`
	}
	s.p.mu.Lock()
	for i, x := range s.p.sites {
		var list []edge
		for _, e := range s.p.table.Regions[i].Edges {
			list = append(list, edge{e.Name, x.lost.IsZero()})
		}
		out.Regions = append(out.Regions, struct {
			Edges []edge `json:"edges"`
		}{list})
	}
	s.p.mu.Unlock()
	_ = json.NewEncoder(w).Encode(out) // the client has gone
}

// maxQuery of UDP.
const maxQuery = 1500

// names answers for any name with routers or edges, until packets is closed.
func (s *site) names(packets net.PacketConn) {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		s.p.mu.Lock()
		lost := !s.lost.IsZero()
		s.p.mu.Unlock()
		if lost || q.Unpack(buf[:n]) != nil || len(q.Question) != 1 {
			continue
		}
		b, err := s.resolve(q, from).Pack()
		if err == nil {
			_, _ = packets.WriteTo(b, from) // who asked asks again
		}
	}
}

func (s *site) resolve(q *dns.Msg, from net.Addr) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	name, viewer := q.Question[0].Name, from.String()
	if opt := q.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if subnet, ok := o.(*dns.EDNS0_SUBNET); ok {
				viewer = net.JoinHostPort(subnet.Address.String(), "0")
			}
		}
	}
	for _, e := range s.p.edges(s.p.home(viewer))[:3] {
		x, r, _ := s.p.table.Edge(e)
		a := x.Addresses[0]
		if strings.HasPrefix(name, "play.") {
			host, _, err := net.SplitHostPort(strings.TrimPrefix(r.Router.URL, "http://"))
			if err != nil {
				continue
			}
			a = netip.MustParseAddr(host)
		}
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: a.AsSlice()})
	}
	return m
}

// gives reports whether the private video is given.
func (s *site) gives(token bool) bool {
	if token {
		return !s.p.Defects.Denies
	}
	return s.p.Defects.Leaks
}

// edge serves the video.
func (s *site) edge(name string, w http.ResponseWriter, r *http.Request) {
	plain := r.URL.Query().Get("steering") == "0"
	base := s.p.table.Regions[0].Router.URL
	switch p := r.URL.Path; {
	case strings.Contains(p, Private) && !s.gives(strings.HasPrefix(p, "/v/"+goodToken+"/")):
		http.Error(w, "no token", http.StatusUnauthorized)
	case strings.Contains(p, Private):
		_, _ = w.Write([]byte("#EXTM3U\n")) // the client has gone
	case strings.HasSuffix(p, "/master.m3u8"):
		s.master(w, r, plain, base)
	case strings.HasSuffix(p, "/"+hls.MediaName):
		rendition := strings.TrimSuffix(strings.TrimPrefix(p, runPath), "/"+hls.MediaName)
		prefix := ""
		if plain {
			prefix = base + runPath + rendition + "/"
		}
		s.media(w, rendition, prefix)
	case p == "/health/segment":
		_, _ = w.Write([]byte("a segment")) // the client has gone
	case strings.HasPrefix(p, runPath):
		s.segment(name, w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *site) master(w http.ResponseWriter, r *http.Request, plain bool, base string) {
	stored, err := hls.Master(renditions)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if plain {
		_, _ = w.Write(hls.Plain(stored, base+runPath, "?steering=0")) // the client has gone
		return
	}
	names := strings.Split(r.URL.Query().Get("p"), ",")
	var ways []hls.Pathway
	for _, n := range names {
		e, _, _ := s.p.table.Edge(n)
		ways = append(ways, hls.Pathway{ID: n, Base: e.URL + runPath})
	}
	b, err := hls.Expand(stored, ways, s.manifest(names, names))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b) // the client has gone
}

func (s *site) media(w http.ResponseWriter, rendition, prefix string) {
	var b strings.Builder
	fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"%sinit.mp4\"\n", prefix)
	for n := range s.p.Defects.Segments {
		fmt.Fprintf(&b, "#EXTINF:1.000000,\n%s%05d.m4s\n", prefix, n)
	}
	b.WriteString("#EXT-X-ENDLIST\n")
	_, _ = w.Write([]byte(b.String())) // the client has gone
}

func (s *site) segment(edge string, w http.ResponseWriter, r *http.Request) {
	d := s.p.Defects
	if d.Unavailable {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	if d.Slow > 0 {
		select {
		case <-time.After(d.Slow):
		case <-r.Context().Done():
			return
		}
	}
	b := make([]byte, segmentSize)
	copy(b, r.URL.Path)
	if d.Corrupts && !strings.HasPrefix(edge, regions[0].name) {
		b[segmentSize-1] = 1
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // the client has gone
}
