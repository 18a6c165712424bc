package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// diskMemory is what a cache may hold in memory, diskObjects of diskSize six times
	// as much. The kernel's memory has all files of all of them.
	diskMemory  = 32 << 20
	diskSize    = 1 << 20
	diskObjects = 192
	// diskPasses is how often all are asked for at most before the disk has them.
	diskPasses = 8
)

// compareDisk measures hits on disk: more objects than memory holds, asked for in
// turn. nginx and Varnish, whose store is then a file, leave memory to the kernel.
func (b *bench) compareDisk(ctx context.Context, names []string) error {
	cells := map[string][]result{}
	var servers []*server
	err := b.apart(ctx, func(one *bench) { one.small = true }, func(one *bench) error {
		servers = one.servers
		scripts := map[string]string{}
		for _, s := range servers {
			script, err := one.fillDisk(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			scripts[s.name] = script
		}
		for round := range b.rounds {
			for i := range servers {
				s := servers[(i+round)%len(servers)]
				before := one.origin.all()
				r, err := s.costs(func() (result, error) { return one.wrkWith(ctx, s.base, "-s", scripts[s.name]) })
				if err == nil && one.origin.all() > before {
					err = errors.New("it went to the origin")
				}
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				key := s.name + "/" + sizeName(diskSize)
				cells[key] = append(cells[key], r)
			}
		}
		return nil
	}, names...)
	if err != nil {
		return err
	}
	fmt.Printf("Hits among %d objects of %s with %s of memory for them: wrk, 1 thread, %d connections, %s, medians of %d rounds; last the server's processor time for each request.\n\n%s\n",
		diskObjects, sizeName(diskSize), sizeName(diskMemory), b.connections, b.duration, b.rounds, hitTable(servers, []int{diskSize}, cells))
	return nil
}

// fillDisk asks for all objects until none comes from the origin, and writes the
// script by which wrk asks for them in turn.
func (b *bench) fillDisk(ctx context.Context, s *server) (string, error) {
	client := b.way(rowHits).newClient()
	defer client.CloseIdleConnections()
	want := b.origin.body(diskSize)
	settled := false
	for range diskPasses {
		before, misses := b.origin.all(), 0
		for n := range diskObjects {
			res, body, err := get(ctx, client, s.base+s.object(n), nil)
			if err == nil && !bytes.Equal(body, want) {
				err = fmt.Errorf("%s: not the origin's bytes", s.object(n))
			}
			if err != nil {
				return "", err
			}
			if strings.Contains(res.Header.Get("Cache-Status"), "fwd=") {
				misses++
			}
		}
		if settled = misses == 0 && b.origin.all() == before; settled {
			break
		}
	}
	if !settled {
		return "", fmt.Errorf("the origin is asked for some objects after they were asked for %d times", diskPasses)
	}
	var lua strings.Builder
	lua.WriteString("local paths = {\n")
	for n := range diskObjects {
		fmt.Fprintf(&lua, "%q,\n", s.object(n))
	}
	lua.WriteString("}\nlocal n = 0\nfunction request()\n\tn = n % #paths + 1\n\treturn wrk.format(\"GET\", paths[n])\nend\n")
	name := filepath.Join(b.dir, s.name+".lua")
	return name, os.WriteFile(name, []byte(lua.String()), 0o600)
}
