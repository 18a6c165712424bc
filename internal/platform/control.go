package platform

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	// controlSocket, in the state directory, answers its owner's questions about
	// a running platform and changes its regions.
	controlSocket  = "control.sock"
	controlTimeout = 5 * time.Second
	// operationTimeout is more than any operation on a region takes.
	operationTimeout = regionStartTimeout + 2*acquireTimeout
)

// operation on a region, as the control socket names it.
type operation string

const (
	opKill    operation = "kill"
	opStop    operation = "stop"
	opHang    operation = "hang"
	opResume  operation = "resume"
	opSilence operation = "silence"
	opSlow    operation = "slow"
	opHeal    operation = "heal"
	opFill    operation = "fill"
	opFree    operation = "free"
	opStart   operation = "start"
)

// maxClock is the most a clock is ahead or behind.
const maxClock = 24 * time.Hour

// said is one line of the answer to an operation; the last has Done or Error.
type said struct {
	Say   string `json:"say,omitempty"`
	Error *Error `json:"error,omitempty"`
	Done  bool   `json:"done,omitempty"`
}

type controlServer struct {
	server *http.Server
	done   chan struct{}
}

func serveControl(path string, p *platform) (*controlServer, error) {
	// We hold the state directory: a socket there is one an earlier run left.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A caller who is gone needs no answer.
		_ = json.NewEncoder(w).Encode(p.status(r.Context()))
	})
	mux.HandleFunc("POST /regions/{region}/{operation}", p.serveOperation)
	c := &controlServer{done: make(chan struct{}), server: &http.Server{Handler: mux, ReadHeaderTimeout: controlTimeout,
		ReadTimeout: controlTimeout, WriteTimeout: 2 * controlTimeout, MaxHeaderBytes: 16 << 10}}
	go func() {
		defer close(c.done)
		// Ends by close only; a platform whose status can't be asked still runs.
		_ = c.server.Serve(l)
	}()
	return c, nil
}

func (c *controlServer) close() {
	_ = c.server.Close()
	<-c.done
}

func (p *platform) serveOperation(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	var mu sync.Mutex // parts of a region start beside each other
	tell := func(s said) {
		mu.Lock()
		defer mu.Unlock()
		// A caller who is gone needs no answer; the operation goes on.
		_ = rc.SetWriteDeadline(time.Now().Add(controlTimeout))
		_ = enc.Encode(s)
		_ = rc.Flush()
	}
	err := p.operate(r.Context(), operation(r.PathValue("operation")), r.PathValue("region"), r.URL.Query(), func(text string) { tell(said{Say: text}) })
	if err == nil {
		tell(said{Done: true})
		return
	}
	var typed *Error
	if !errors.As(err, &typed) {
		typed = &Error{Code: Failed, Message: err.Error()}
	}
	tell(said{Error: typed})
}

func (p *platform) operate(ctx context.Context, op operation, name string, q url.Values, say func(string)) error {
	switch op {
	case opKill:
		return p.killRegion(ctx, name)
	case opStop:
		return p.stopRegion(ctx, name)
	case opHang:
		return p.hangRegion(ctx, name)
	case opResume:
		return p.resumeRegion(ctx, name)
	case opSilence:
		return p.silenceRegion(ctx, name, q.Get("direction"))
	case opSlow:
		by, err := parseLink(q)
		if err != nil {
			return err
		}
		return p.slowRegion(ctx, name, by)
	case opHeal:
		return p.healRegion(ctx, name)
	case opFill:
		return p.fillRegion(ctx, name)
	case opFree:
		return p.freeRegion(ctx, name)
	case opStart:
		wipe, err := strconv.ParseBool(q.Get("wipe-objects"))
		if err != nil {
			return refuse(BadRequest, "wipe-objects: want true or false")
		}
		clock, err := time.ParseDuration(cmp.Or(q.Get("clock"), "0s"))
		if err != nil || clock%time.Second != 0 || clock.Abs() > maxClock {
			return refuse(BadRequest, "clock: want whole seconds up to %s, such as 90s or -90s", maxClock)
		}
		return p.startRegion(ctx, name, wipe, startup{q.Get("program"), clock}, say)
	default:
		return refuse(BadRequest, "unknown operation %q", op)
	}
}

// parseLink reads what comes on top of a region's links.
func parseLink(q url.Values) (l wan.Link, err error) {
	if l.Delay, err = time.ParseDuration(cmp.Or(q.Get("delay"), "0s")); err == nil {
		l.Jitter = l.Delay / 4
		l.Loss, err = strconv.ParseFloat(cmp.Or(q.Get("loss"), "0"), 64)
	}
	if err == nil {
		l.Rate, err = strconv.ParseInt(cmp.Or(q.Get("rate"), "0"), 10, 64)
	}
	if err == nil {
		err = l.Validate()
	}
	switch {
	case err != nil:
		return l, refuse(BadRequest, "%v", err)
	case l == wan.Link{}:
		return l, refuse(BadRequest, "want a delay, a loss or a rate")
	}
	return l, nil
}

// controlClient is the caller's side of a running platform's socket.
type controlClient struct{ stateDir string }

func (c controlClient) do(ctx context.Context, method, path string, q url.Values) (io.ReadCloser, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", (&state{dir: c.stateDir}).path(controlSocket))
	}}
	u := url.URL{Scheme: "http", Host: "platform", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := tr.RoundTrip(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, refuse(NotRunning, "no platform runs on %s; start one with `meridian up`, or name its directory with --state", c.stateDir)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the platform on %s: %w", c.stateDir, err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("ask the platform on %s: %s", c.stateDir, res.Status)
	}
	return res.Body, nil
}

func (c controlClient) status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var s Status
	body, err := c.do(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

// operate does one operation and passes on what the platform says meanwhile.
func (c controlClient) operate(ctx context.Context, op operation, name string, q url.Values, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	if !region.IsName(name) { // nor a part of a path
		return refuse(UnknownRegion, "no region %q runs here: want a name such as eu", name)
	}
	body, err := c.do(ctx, http.MethodPost, "/regions/"+name+"/"+string(op), q)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var s said
		if err := dec.Decode(&s); err != nil {
			return fmt.Errorf("%s %s: the platform ended before it was done: %w", op, name, err)
		}
		switch {
		case s.Error != nil:
			return s.Error
		case s.Done:
			return nil
		default:
			say(s.Say)
		}
	}
}
