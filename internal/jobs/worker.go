package jobs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Handler does a task. Returning nil without having committed or finished it is
// a bug and goes to the dead letters. ctx is cancelled with cause ErrLost,
// ErrCancelled or ErrStopping; the handler must then stop within seconds and
// return. Errors: BadInput fails the run with its reason, Permanent is ours and
// isn't tried again, anything else is tried again elsewhere.
type Handler func(ctx context.Context, t *Task) error

// Putter stores an object in as many regions as its placement asks for;
// *objects.Store is one.
type Putter interface {
	Put(ctx context.Context, key string, body objects.Body, p objects.Placement) ([]string, error)
}

// Worker pulls tasks and does them. Set the exported fields, then call Run once.
type Worker struct {
	Catalog *catalog.Catalog
	Conn    *Conn
	Objects Putter
	// Region is the own one, Regions the names of all.
	Region  string
	Regions []string
	// Slots is how many tasks are done at once, at least 1. Of four or more, two
	// are kept for tasks of class First and one for Ladder; of two or three, one.
	Slots int
	// Build says what it encodes with: a run is for workers of one. Empty is any.
	Build  string
	Handle Handler
	Log    *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics

	id    string
	slots *slots
	tasks sync.WaitGroup

	mu      sync.Mutex
	running map[*Task]context.CancelCauseFunc

	// frozen stops the beats of tasks, as SIGSTOP would; tests set it.
	frozen bool
}

// Timing of claims. The message's AckWait equals the row's lease, and one beat
// renews both.
const (
	beatEvery = 5 * time.Second
	// pullWait is long because servers agree on every pull of a replicated consumer,
	// and write it down, when it comes and when it ends. pullBeat is how often one
	// hears that it is still known; after two it is made anew, elsewhere if need be.
	pullWait = 30 * time.Second
	pullBeat = 2 * time.Second
	// headStart is how long pulls of a class wait for those of the class before it.
	headStart = 20 * time.Millisecond
	// heldDelay is when a message of a task that is held by another comes back.
	heldDelay = 2 * time.Second
	// stopGrace is how long handlers may take to stop.
	stopGrace = 10 * time.Second
)

// Run pulls and does tasks until ctx ends; it then gives back what it holds.
func (w *Worker) Run(ctx context.Context) error {
	if w.Slots < 1 {
		return fmt.Errorf("worker: %d slots: want at least 1", w.Slots)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	w.id = fmt.Sprintf("%s-%s-%s", w.Region, host, strings.ToLower(rand.Text()[:8]))
	w.slots = newSlots(w.Slots)
	w.running = map[*Task]context.CancelCauseFunc{}
	if err := w.Conn.Setup(ctx); err != nil {
		return ended(ctx, err)
	}
	sub, err := w.Conn.nc.Subscribe("events.asset.*.*", w.cancelled)
	if err != nil {
		return fmt.Errorf("worker: watch for cancellations: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends it too

	// Tasks outlive ctx by the time they need to stop.
	taskCtx, stopTasks := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopTasks(nil)
	g, gctx := errgroup.WithContext(ctx)
	for _, source := range w.sources() {
		g.Go(func() error { return w.feed(gctx, taskCtx, source) })
	}
	g.Go(func() error { return w.beat(gctx) })
	err = g.Wait()
	stopTasks(ErrStopping)
	w.tasks.Wait()
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	if err := w.Catalog.LeaveWorker(lctx, w.id); err != nil {
		w.Log.Warn("worker stays listed for a while", "worker", w.id, "err", err)
	}
	return ended(ctx, err)
}

// ended turns an error into nil when it came from ctx ending.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// beat lists the worker in the catalog.
func (w *Worker) beat(ctx context.Context) error {
	for {
		if err := w.Catalog.BeatWorker(ctx, w.id, w.Region, w.Slots, w.Build); err != nil && ctx.Err() == nil {
			w.Log.Warn("worker can't be listed", "worker", w.id, "err", err)
		}
		if sleep.For(ctx, beatEvery) != nil {
			return nil
		}
	}
}

// cancelled stops the tasks of an asset that was deleted or has failed, or of a run
// that was cancelled; the beat finds out too, seconds later.
func (w *Worker) cancelled(m *nats.Msg) {
	parts := strings.Split(m.Subject, ".")
	if len(parts) != 4 {
		return
	}
	var e catalog.Event
	switch parts[3] {
	case catalog.EventDeleted, catalog.EventFailed:
	case catalog.EventCancelled:
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Run == "" {
			w.Log.Warn("event can't be read", "subject", m.Subject, "err", err)
			return
		}
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, cancel := range w.running {
		if t.Asset == parts[2] && (e.Run == "" || e.Run == t.RunName()) {
			cancel(ErrCancelled)
		}
	}
}

// handle claims the task a message names and does it. The caller holds the slot.
func (w *Worker) handle(ctx context.Context, msg jetstream.Msg, held *slot) {
	id := string(msg.Data())
	log := w.Log.With("task", id)
	claimed, err := w.Catalog.Claim(ctx, id, w.id, w.Build)
	switch {
	case errors.Is(err, catalog.ErrFenced), errors.Is(err, catalog.ErrBuild):
		w.settle(log, "ack", msg.Ack())
		return
	case errors.Is(err, catalog.ErrHeld):
		w.settle(log, "nak", msg.NakWithDelay(heldDelay))
		return
	case err != nil:
		if ctx.Err() == nil {
			log.Warn("claim", "err", err)
		}
		w.settle(log, "nak", msg.NakWithDelay(heldDelay))
		return
	}
	t := &Task{Task: claimed, worker: w, slot: held}
	log = w.Log.With("asset", t.Asset, "run", t.RunName(), "task", t.ID, "attempt", t.Attempt)
	tctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.mu.Lock()
	w.running[t] = cancel
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.running, t)
		w.mu.Unlock()
	}()

	log.Info("task started", "class", t.Class, "kind", t.Kind)
	started := time.Now()
	beats := make(chan struct{})
	stopBeats := make(chan struct{})
	go func() {
		defer close(beats)
		w.renew(tctx, t, msg, stopBeats, cancel, log)
	}()
	err = w.run(tctx, t)
	close(stopBeats)
	<-beats
	w.conclude(tctx, t, msg, err, time.Since(started), log)
}

// run calls the handler; a panic in it is an error of ours, not the worker's end.
func (w *Worker) run(ctx context.Context, t *Task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Permanent(fmt.Errorf("handler panicked: %v", p))
		}
	}()
	return w.Handle(ctx, t)
}

// renew keeps the claim and its message alive and cancels the work when the
// claim is lost. A catalog that is away changes nothing: the fence decides.
func (w *Worker) renew(ctx context.Context, t *Task, msg jetstream.Msg, stop <-chan struct{}, cancel context.CancelCauseFunc, log *slog.Logger) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.frozen {
			continue
		}
		err := w.Catalog.Beat(ctx, t.Task, t.frames.Load())
		switch {
		case t.done.Load():
			return
		case errors.Is(err, catalog.ErrFenced):
			cancel(ErrLost)
			return
		case err != nil && ctx.Err() == nil:
			log.Warn("beat", "err", err)
		}
		if err := msg.InProgress(); err != nil && ctx.Err() == nil {
			log.Warn("beat to NATS", "err", err)
		}
	}
}

// conclude records how an attempt ended and settles its message.
func (w *Worker) conclude(ctx context.Context, t *Task, msg jetstream.Msg, err error, took time.Duration, log *slog.Logger) {
	cause := context.Cause(ctx)
	// The result must be recorded also while stopping.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer stop()
	outcome := "done"
	var input *InputError
	var permanent *permanentError
	switch {
	case t.done.Load():
		if err != nil {
			log.Warn("handler failed after its task was done", "err", err)
		}
	case errors.Is(cause, ErrLost), errors.Is(cause, ErrCancelled), errors.Is(err, catalog.ErrFenced):
		outcome = "lost"
		err = nil
	case errors.Is(cause, ErrStopping):
		outcome = "returned"
		err = w.Catalog.Return(ctx, t.Task)
	case errors.Is(err, catalog.ErrInit):
		outcome = "another build"
		log.Warn("run is begun anew: its chunks and ours can't be joined", "err", err)
		err = w.Catalog.Fail(ctx, t.Task, catalog.Failure{Code: catalog.BuildFailure, Detail: err.Error()})
	case errors.As(err, &input):
		outcome = "bad input"
		log.Info("source is at fault", "code", input.Code, "detail", input.Detail)
		err = w.Catalog.Fail(ctx, t.Task, input.Failure)
	case err == nil, errors.As(err, &permanent):
		if err == nil {
			err = errors.New("handler returned without a result")
		}
		outcome = "dead"
		log.Error("task failed for good", "err", err)
		err = w.Catalog.Fail(ctx, t.Task, catalog.Failure{Code: catalog.InternalFailure, Detail: err.Error()})
	default:
		outcome = "failed"
		log.Warn("task failed", "err", err, "failures", t.Failures+1)
		failure := catalog.Failure{Code: catalog.InternalFailure, Detail: err.Error()}
		var again bool
		if again, err = w.Catalog.Retry(ctx, t.Task, failure, retryDelay(t.Failures)); err == nil && !again {
			outcome = "dead"
		}
	}
	w.Metrics.done(t.Task, outcome, took)
	if err != nil && !errors.Is(err, catalog.ErrFenced) {
		// The row still says running: its lease runs out, and the message comes back.
		log.Warn("outcome is not recorded", "outcome", outcome, "err", err)
		return
	}
	log.Info("task ended", "outcome", outcome, "took", took.Round(time.Millisecond))
	w.settle(log, "ack", msg.Ack())
}

// settle logs a failed ack or nak: the message comes back, and the row decides.
func (w *Worker) settle(log *slog.Logger, what string, err error) {
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		log.Warn(what, "err", err)
	}
}

// retryDelay grows with the failures: 1, 2, 4, 8 s.
func retryDelay(failures int) time.Duration {
	return time.Second << min(max(failures, 0), 3)
}
