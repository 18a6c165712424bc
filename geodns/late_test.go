package geodns

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
)

// doubt has the board doubt its line until the returned func is called.
func doubt(b *geo.Board, wait time.Duration) (end func()) {
	over := make(chan struct{})
	b.Update(func(s *geo.Snapshot) { s.Doubt = &geo.Doubt{Over: over, Wait: wait} })
	return func() {
		b.Update(func(s *geo.Snapshot) { s.Doubt = nil })
		close(over)
	}
}

// asked are all the ways to ask for what Americans get.
func asked(t *testing.T, b *geo.Board) map[string]func() (first string) {
	rt := testRouter(t, b)
	at, wild := serveNames(t, rt.zone, "127.0.0.1:0"), serveNames(t, rt.zone, "0.0.0.0:0")
	_, port, err := net.SplitHostPort(wild)
	require.NoError(t, err)
	short := func(at string, args ...string) func() string {
		return func() string {
			out := dig(t, at, append([]string{"+short", "+subnet=127.12.3.0/24", "edge.meridian.test", "A"}, args...)...)
			first, _, _ := strings.Cut(out, "\n")
			return first
		}
	}
	return map[string]func() string{
		"UDP":           short(at, "+ignore"),
		"UDP, wildcard": short(net.JoinHostPort("127.5.6.7", port), "+ignore"),
		"UDP, then TCP": short(at),
		"TCP":           short(at, "+tcp"),
		"redirect": func() string {
			w := get(rt, "/v/-/"+asset+"/master.m3u8", "127.12.0.1")
			require.Equal(t, http.StatusFound, w.Code)
			return strings.TrimPrefix(w.Header().Get("Location"), "http://")
		},
		"steering": func() string {
			m := steer(t, rt, "?a="+asset+"&p=us-1,eu-1", "127.12.0.1")
			return map[string]string{"us-1": "127.2.0.", "eu-1": "127.1.0."}[m.Priority[0]]
		},
	}
}

// TestDoubtIsWaitedFor: who asks while a router doubts its line is answered by what
// it knows when the doubt is over.
func TestDoubtIsWaitedFor(t *testing.T) {
	b := testBoard(t)
	for way, ask := range asked(t, b) {
		t.Run(way, func(t *testing.T) {
			setDown(b, true, testNow, "us-1", "us-2")
			end := doubt(b, time.Minute)
			answer := make(chan string, 1)
			go func() {
				defer close(answer) // also when asking failed the test
				answer <- ask()
			}()
			select {
			case a := <-answer:
				t.Fatalf("it didn't wait: %s", a)
			case <-time.After(100 * time.Millisecond):
			}
			setDown(b, false, testNow.Add(-time.Hour), "us-1", "us-2")
			end()
			require.Contains(t, <-answer, "127.2.0.")
		})
	}
}

// TestDoubtThatLasts: UDP is answered by the wish for TCP, which shows that packets go
// both ways; the others wait longer, and then get what there is.
func TestDoubtThatLasts(t *testing.T) {
	b := testBoard(t)
	setDown(b, true, testNow, "us-1", "us-2")
	t.Cleanup(doubt(b, 50*time.Millisecond))
	for way, ask := range asked(t, b) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			began, answer := time.Now(), ask()
			require.NotContains(t, answer, "127.2.0.")
			require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
			require.Equal(t, strings.HasPrefix(way, "UDP") && way != "UDP, then TCP", answer == "", answer)
		})
	}
}

// TestWaitingQueriesAreBounded: more than there is room for are answered at once.
func TestWaitingQueriesAreBounded(t *testing.T) {
	b := testBoard(t)
	at := serveNames(t, testZone(t, b), "127.0.0.1:0")
	defer doubt(b, time.Hour)()
	c, err := net.Dial("udp", at)
	require.NoError(t, err)
	defer c.Close()
	p, err := query("edge.meridian.test.", dns.TypeA, "").Pack()
	require.NoError(t, err)
	// One is being waited for, and a batch of them is read at once. What the socket has
	// no room for is lost, so it may take some more.
	until := time.Now().Add(20 * time.Second)
	for sent := 1; ; sent++ {
		_, err = c.Write(p)
		require.NoError(t, err)
		if sent < maxLate+1+batchSize {
			continue
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		if _, err = c.Read(make([]byte, maxUDP)); err == nil {
			return
		}
		require.True(t, time.Now().Before(until), "%d sent: %v", sent, err)
	}
}
