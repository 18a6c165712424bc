package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// asset is what every sample is called.
const asset = "aaaaaaaaaaaaaaaaaaaaaaaaaa"

// memory is the store of one encode.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
}

// Put keeps a body.
func (m *memory) Put(_ context.Context, key string, body objects.Body, _ objects.Placement) ([]string, error) {
	b, err := io.ReadAll(io.NewSectionReader(body.R, 0, body.Size))
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = b
	return []string{"eu"}, nil
}

// Get opens a range of a body; a length below 0 is all of the rest.
func (m *memory) Get(_ context.Context, key string, offset, length int64, _ objects.Placement) (io.ReadCloser, objects.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[key]
	if !ok {
		return nil, objects.Info{}, fmt.Errorf("get %s: %w", key, objects.ErrNotFound)
	}
	end := int64(len(b))
	if length >= 0 {
		end = min(end, offset+length)
	}
	return io.NopCloser(bytes.NewReader(b[offset:end])), objects.Info{Key: key, Size: int64(len(b))}, nil
}

// board has what the catalog would know of one run.
type board struct {
	source  catalog.Source
	profile string

	mu      sync.Mutex
	plan    catalog.Plan
	records map[string][]hls.Record
}

// claim is an attempt on the board.
type claim struct{ *board }

func (c claim) Source(context.Context) (catalog.Source, error)        { return c.source, nil }
func (c claim) Plan(context.Context) (catalog.Plan, error)            { return c.plan, nil }
func (c claim) Profile(context.Context) (string, error)               { return c.profile, nil }
func (c claim) Finish(context.Context) error                          { return nil }
func (c claim) Await(context.Context, int64) error                    { return errors.ErrUnsupported }
func (c claim) GrowPlan(context.Context, catalog.Plan, int64) error   { return errors.ErrUnsupported }
func (c claim) CommittedChunks(context.Context) ([]hls.Record, error) { return nil, nil }
func (c claim) Progress(int64)                                        {}
func (c claim) Draining()                                             {}
func (c claim) CommitPlan(_ context.Context, p catalog.Plan) error    { c.plan = p; return nil }
func (c claim) CommitExtras(_ context.Context, _ hls.Extras) error {
	return errors.New("there are no extras here")
}
func (c claim) CommitChunk(_ context.Context, ch catalog.ChunkCommit) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records[ch.Record.Track] = append(c.records[ch.Record.Track], ch.Record)
	return nil
}
