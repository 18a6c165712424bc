package web

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed dist
var dist embed.FS

// entry is the source Vite built the bundle from.
const entry = "src/main.ts"

type asset struct {
	contentType string
	plain       []byte
	gzip        []byte
}

type bundled struct {
	script string
	styles []string
	// files by their URL path.
	files map[string]asset
}

// bundle is read and compressed once.
var bundle = sync.OnceValues(func() (*bundled, error) { return loadBundle(dist) })

func loadBundle(fsys fs.FS) (*bundled, error) {
	b, err := fs.ReadFile(fsys, "dist/manifest.json")
	if err != nil {
		return nil, fmt.Errorf("web bundle: %w (run `npm ci && npm run build` in web/)", err)
	}
	var manifest map[string]struct {
		File string   `json:"file"`
		CSS  []string `json:"css"`
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		return nil, fmt.Errorf("web bundle: manifest.json: %w", err)
	}
	m, ok := manifest[entry]
	if !ok {
		return nil, fmt.Errorf("web bundle: manifest.json has no %s", entry)
	}
	out := &bundled{script: "/" + m.File, files: map[string]asset{}}
	for _, c := range m.CSS {
		out.styles = append(out.styles, "/"+c)
	}
	err = fs.WalkDir(fsys, "dist/assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		plain, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		a := asset{contentType: contentType(name), plain: plain}
		if strings.HasPrefix(a.contentType, "text/") {
			if a.gzip, err = compress(plain); err != nil {
				return err
			}
		}
		out.files[strings.TrimPrefix(name, "dist")] = a
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("web bundle: %w", err)
	}
	for _, name := range append(out.styles, out.script) {
		if _, ok := out.files[name]; !ok {
			return nil, fmt.Errorf("web bundle: manifest.json names %s, which isn't there", name)
		}
	}
	return out, nil
}

// contentType doesn't ask the machine's mime table, which may be wrong or absent.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		if t := mime.TypeByExtension(ext); t != "" {
			return t
		}
		return "application/octet-stream"
	}
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Assets serves the bundle's files under /assets/.
func Assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := bundle()
		if err != nil {
			http.Error(w, "the player's files are missing from this build", http.StatusInternalServerError)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		a, ok := b.files[r.URL.Path]
		if !ok {
			// Another version of this program may have the file in a moment.
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
		h := w.Header()
		h.Set("Content-Type", a.contentType)
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("X-Content-Type-Options", "nosniff")
		// A page from one router may, behind one name, get its assets from another.
		h.Set("Access-Control-Allow-Origin", "*")
		body := a.plain
		if a.gzip != nil {
			h.Set("Vary", "Accept-Encoding")
			if acceptsGzip(r.Header.Get("Accept-Encoding")) {
				h.Set("Content-Encoding", "gzip")
				body = a.gzip
			}
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodGet {
			// The client may have gone; there is nobody to tell.
			_, _ = w.Write(body)
		}
	})
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3).
func acceptsGzip(header string) bool {
	any := false
	for part := range strings.SplitSeq(header, ",") {
		coding, params, _ := strings.Cut(part, ";")
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.ReplaceAll(strings.TrimSpace(params), " ", ""), "q="); ok {
			v, err := strconv.ParseFloat(q, 64)
			if err != nil {
				v = 0
			}
			weight = v
		}
		switch strings.ToLower(strings.TrimSpace(coding)) {
		case "gzip", "x-gzip":
			return weight > 0
		case "*":
			any = weight > 0
		}
	}
	return any
}
