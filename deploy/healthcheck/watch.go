package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// watch asks until there is something to tell the engine, which knows only how the
// last check ended:
//
//   - that the container is healthy, as soon as it is, if the engine doesn't know;
//   - that it is not, when failures questions in a row have failed, if the engine
//     believes it to be healthy;
//   - the same again, after stay.
//
// With a stay of 0 one question decides.
type watch struct {
	check   func(ctx context.Context) error
	timeout time.Duration // of one question
	stay    time.Duration
	told    string        // file that is there while the engine knows that all is well
	soon    time.Duration // between questions while it doesn't
	later   time.Duration // between questions while it does
}

// failures of questions in a row make a container that was healthy unhealthy.
const failures = 3

func (w *watch) run(ctx context.Context) error {
	if w.stay == 0 {
		return w.ask(ctx)
	}
	_, err := os.Stat(w.told)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	end := time.Now().Add(w.stay)
	if err == nil {
		return w.whileHealthy(ctx, end)
	}
	return w.untilHealthy(ctx, end)
}

func (w *watch) untilHealthy(ctx context.Context, end time.Time) error {
	for {
		err := w.ask(ctx)
		if err == nil {
			return os.WriteFile(w.told, nil, 0o600)
		}
		if time.Now().After(end) {
			return err
		}
		if !pause(ctx, w.soon) {
			return err
		}
	}
}

func (w *watch) whileHealthy(ctx context.Context, end time.Time) error {
	failed := 0
	for {
		err := w.ask(ctx)
		if err == nil {
			failed = 0
		} else if failed++; failed == failures {
			if gone := os.Remove(w.told); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
				err = fmt.Errorf("%w (and %w)", err, gone)
			}
			return err
		}
		if failed == 0 && time.Now().After(end) || !pause(ctx, w.later) {
			return nil
		}
	}
}

func (w *watch) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return w.check(ctx)
}

// pause reports whether d passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
