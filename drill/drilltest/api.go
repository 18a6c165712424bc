package drilltest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// catalog is what all regions' APIs share.
type catalog struct {
	mu     sync.Mutex
	made   int
	assets map[string]*asset
}

type asset struct {
	title        string
	size, offset int64
}

func newCatalog() *catalog { return &catalog{assets: map[string]*asset{}} }

// rollBack forgets all titles but the first.
func (c *catalog) rollBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.assets {
		a.title = firstTitle
	}
}

const (
	firstTitle = "drill title 0"
	goodToken  = "good"
)

// serveAPI is as much of the API as creators of drills use.
func (s *site) serveAPI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && s.p.Defects.ReadOnly && s.p.anythingLost() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "no leader", http.StatusServiceUnavailable)
		return
	}
	c := s.p.api
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	a := c.assets[id]
	switch {
	case r.Method == http.MethodPost && id == "tokens":
		_, _ = io.WriteString(w, `{"token":"`+goodToken+`"}`) // the client has gone
	case r.Method == http.MethodPost:
		c.made++
		id = fmt.Sprintf("asset-%d", c.made)
		a = &asset{title: firstTitle}
		c.assets[id] = a
		var in struct{ Title string }
		// An upload has none, and no JSON.
		if json.NewDecoder(r.Body).Decode(&in) == nil && in.Title != "" && !s.p.Defects.LosesTitles {
			a.title = in.Title
		}
		if r.URL.Path == "/v1/uploads" {
			size, err := strconv.ParseInt(r.Header.Get("Upload-Length"), 10, 64)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			a.size = size
			w.Header().Set("Location", "/v1/uploads/"+id)
			w.Header().Set("Meridian-Asset", id)
		}
		w.WriteHeader(http.StatusCreated)
		s.show(w, id, a)
	case a == nil:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code":"not-found","detail":"no such asset"}`) // the client has gone
	case strings.HasPrefix(r.URL.Path, "/v1/uploads/"):
		s.upload(w, r, id, a)
	case r.Method == http.MethodDelete:
		delete(c.assets, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPatch:
		var in struct{ Title string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !s.p.Defects.LosesTitles {
			a.title = in.Title
		}
		s.show(w, id, a)
	default:
		s.show(w, id, a)
	}
}

func (s *site) upload(w http.ResponseWriter, r *http.Request, id string, a *asset) {
	if r.Method == http.MethodPatch {
		n, err := io.Copy(io.Discard, r.Body)
		a.offset += n
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.p.Defects.Forgets && a.offset == a.size {
			delete(s.p.api.assets, id)
		}
	}
	w.Header().Set("Upload-Offset", strconv.FormatInt(a.offset, 10))
	w.WriteHeader(http.StatusNoContent)
}

func (s *site) show(w http.ResponseWriter, id string, a *asset) {
	state := "waiting"
	if a.size > 0 && a.offset == a.size {
		if state = "ready"; s.p.Defects.Sticks {
			state = "received"
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id": id, "title": a.title, "state": state}) // the client has gone
}
