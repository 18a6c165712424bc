package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/e2e/stack"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	// The machine may stand still for minutes.
	makeWithin   = 30 * time.Minute
	uploadWithin = 30 * time.Minute
	// settleWithin is generous: a region that is lost again and again is kept away
	// for a while.
	settleWithin = 4 * time.Minute
	// probeEvery is how often the edges of a region are asked whether they live.
	probeEvery  = 100 * time.Millisecond
	probeWithin = time.Second
)

// platform is an isolated platform with a film.
type platform struct {
	*stack.Stack
	viewers *wan.Namespace // of those near eu
	path    string         // of their namespace
	host    netip.Addr     // of this machine, next to everything
	asset   string
	client  *http.Client
}

// makeFilm makes a film with sound whose segments are as large as a film's of
// its size: some noise keeps the rate up.
func makeFilm(ctx context.Context, from, to string, seconds int) error {
	ctx, cancel := context.WithTimeout(ctx, makeWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", from,
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", strconv.Itoa(seconds), "-map", "0:v:0", "-map", "1:a",
		"-vf", "scale=-2:360,noise=alls=14:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "22", "-g", "300",
		"-c:a", "aac", "-b:a", "96k", "-movflags", "+faststart", to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the film: %w\n%s", err, out)
	}
	return nil
}

// newPlatform starts a platform and publishes a film there.
func newPlatform(ctx context.Context, o options) (_ *platform, err error) {
	film := ""
	s, err := stack.Start(stack.Options{Name: "players", Args: []string{"--isolated", "--network", strconv.Itoa(o.network)},
		Meanwhile: func(dir string) error {
			film = filepath.Join(dir, "film.mp4")
			return makeFilm(ctx, o.film, film, o.seconds)
		}})
	if err != nil {
		return nil, err
	}
	p := &platform{Stack: s, client: &http.Client{Timeout: 2 * time.Second}}
	defer func() {
		if err != nil {
			p.DumpLogs()
			err = errors.Join(err, p.Close())
		}
	}()
	st, err := p.status(ctx)
	if err != nil {
		return nil, err
	}
	p.path = st.Namespaces[wan.ViewersNode(p.Table.Regions[0].Name)]
	if p.viewers, err = wan.OpenNamespace(p.path); err != nil {
		return nil, err
	}
	cfg, err := wan.Topology(p.Table)
	if err != nil {
		return nil, err
	}
	for _, n := range cfg.Nodes {
		if n.Host {
			p.host = n.Addresses[0].Addr()
		}
	}
	p.asset, err = p.upload(ctx, film)
	return p, err
}

// Close ends the platform and removes its files.
func (p *platform) Close() error {
	p.client.CloseIdleConnections()
	if p.viewers != nil {
		return errors.Join(p.viewers.Close(), p.Stop())
	}
	return p.Stop()
}

func (p *platform) upload(ctx context.Context, film string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, uploadWithin)
	defer cancel()
	out, _, err := p.CLI(ctx, "upload", "--json", film)
	if err != nil {
		return "", err
	}
	var l struct{ Event, Asset string }
	for line := range strings.Lines(out) {
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return "", fmt.Errorf("upload: %w: %s", err, line)
		}
	}
	if l.Event != "ready" {
		return "", fmt.Errorf("upload ended with %q, want ready", l.Event)
	}
	return l.Asset, nil
}

// status is what `meridian status --json` prints.
type status struct {
	Regions    []struct{ Name, Condition string }
	Namespaces map[string]string
}

// status is also returned when not all is well.
func (p *platform) status(ctx context.Context) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var st status
	out, err := p.Command(ctx, "status", "--json").Output()
	if jerr := json.Unmarshal(out, &st); jerr != nil {
		return st, errors.Join(err, jerr)
	}
	return st, nil
}

// undo is what ends a region's condition.
var undo = map[string]string{"hung": "resume", "silent": "heal", "killed": "start", "stopped": "start"}

// restore brings all regions back and waits until every router finds every edge
// working and would send a European to the first region.
func (p *platform) restore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	st, err := p.status(ctx)
	if err != nil {
		return err
	}
	for _, r := range st.Regions {
		if op := undo[r.Condition]; op != "" {
			if _, _, err := p.CLI(ctx, "region", op, r.Name); err != nil {
				return err
			}
		}
	}
	for _, r := range p.Table.Regions {
		for err := p.well(ctx, r); err != nil; err = p.well(ctx, r) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("after %v the router of %s says: %w", settleWithin, r.Name, err)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return nil
}

// well asks a router where a viewer would go.
func (p *platform) well(ctx context.Context, r region.Region) error {
	b, err := p.get(ctx, r.Router.URL+"/explain?format=json&ip="+p.address(1).String())
	if err != nil {
		return err
	}
	var e struct {
		Regions []struct {
			Name  string
			Edges []struct {
				Name string
				Up   bool
			}
		}
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return err
	}
	for _, x := range e.Regions {
		for _, edge := range x.Edges {
			if !edge.Up {
				return fmt.Errorf("%s is down", edge.Name)
			}
		}
	}
	if want := p.Table.Regions[0].Name; len(e.Regions) != len(p.Table.Regions) || e.Regions[0].Name != want {
		return fmt.Errorf("regions are %+v, want %s first", e.Regions, want)
	}
	return nil
}

func (p *platform) get(ctx context.Context, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", u, res.StatusCode)
	}
	return b, err
}

// address is one of the viewers near the first region.
func (p *platform) address(n byte) netip.Addr {
	a := p.Table.Regions[0].Edges[0].Addresses[0].As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], a[2] + 10, n})
}

// lose does something to a region and returns when an edge there last delivered.
func (p *platform) lose(ctx context.Context, fault, name string) (time.Time, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := make(chan time.Time, 1)
	edge := p.Region(name).Edges[0].URL + "/health/segment"
	// Connections that are kept would outlive the fault's beginning, asking nothing.
	client := &http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		at := time.Now()
		for ctx.Err() == nil {
			asked := time.Now()
			if res, err := client.Get(edge); err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err == nil && res.StatusCode == http.StatusOK {
					at = asked
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(probeEvery):
			}
		}
		last <- at
	}()
	_, _, err := p.CLI(ctx, "region", fault, name)
	cancel()
	return <-last, err
}
