package playertest_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/meridian-video/meridian/web"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

// TestLook writes pictures of the pages to the directory PLAYERTEST_SHOTS names.
func TestLook(t *testing.T) {
	if os.Getenv("PLAYERTEST_SHOTS") == "" {
		t.Skip("PLAYERTEST_SHOTS names no directory for the pictures")
	}
	m := encode(t)
	w := newWorld(t, m)
	w.window = 20 * time.Second
	for _, look := range []struct {
		name    string
		options []browser.Option
	}{
		{"desktop-light", nil},
		{"desktop-dark", []browser.Option{browser.WithDark()}},
		{"phone-light", []browser.Option{browser.WithSize(390, 844, true)}},
		{"phone-dark", []browser.Option{browser.WithSize(390, 844, true), browser.WithDark()}},
	} {
		// A test of its own ends its browser before the next one starts.
		t.Run(look.name, func(t *testing.T) {
			p := playertest.Open(t, w.r1.url+"/watch/a", look.options...)
			p.WaitPosition(2, startIn)
			shot(t, p, look.name)
			p.Press("i")
			p.WaitPosition(3, startIn)
			shot(t, p, look.name+"-stats")
		})
	}
	mux := http.NewServeMux()
	mux.Handle("/assets/", web.Assets())
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		if err := web.Problem(rw, http.StatusGone, "This video was removed", "Its owner deleted it, so it can’t be played any more."); err != nil {
			t.Error(err)
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	t.Run("problem", func(t *testing.T) { shot(t, playertest.Open(t, srv.URL), "problem") })
	w.state = func() string { return "received" }
	t.Run("preparing", func(t *testing.T) {
		shot(t, playertest.Open(t, w.r1.url+"/watch/a", browser.WithSize(390, 844, true), browser.WithDark()), "preparing-phone")
	})
}
