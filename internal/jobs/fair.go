package jobs

import (
	"slices"

	"github.com/meridian-video/meridian/internal/catalog"
)

// quantum is what every owner may have dispatched per round, in frames: about
// what a short first chunk costs. A task of unknown size costs a quantum.
const quantum = 60

// fair picks tasks by deficit round robin over owners: in the long run everyone
// with a backlog gets the same number of frames, however large the tasks and
// however many. The zero value is ready; not safe for concurrent use.
type fair struct {
	deficit map[string]int64
	// last is the owner served last: the next round starts after it.
	last string
}

// pick returns up to n of the waiting tasks in the order to dispatch them;
// waiting holds each owner's tasks oldest first.
func (f *fair) pick(waiting []catalog.WaitingTask, n int) []catalog.WaitingTask {
	queues := map[string][]catalog.WaitingTask{}
	for _, t := range waiting {
		queues[t.Owner] = append(queues[t.Owner], t)
	}
	owners := make([]string, 0, len(queues))
	for o := range queues {
		owners = append(owners, o)
	}
	slices.Sort(owners)
	// An owner whose backlog is gone saves nothing up.
	next := make(map[string]int64, len(owners))
	for _, o := range owners {
		next[o] = f.deficit[o]
	}
	f.deficit = next

	// The owner served last goes on only with what is left of its turn.
	at, found := slices.BinarySearch(owners, f.last)
	if found && f.deficit[f.last] < cost(queues[f.last][0]) {
		at++
	}
	var out []catalog.WaitingTask
	for len(out) < n && len(queues) > 0 {
		owner := owners[at%len(owners)]
		q := queues[owner]
		if len(q) == 0 {
			delete(queues, owner)
			f.deficit[owner] = 0
			at++
			continue
		}
		if f.deficit[owner] < cost(q[0]) {
			f.deficit[owner] += quantum
		}
		for len(q) > 0 && len(out) < n && f.deficit[owner] >= cost(q[0]) {
			f.deficit[owner] -= cost(q[0])
			out, q = append(out, q[0]), q[1:]
			f.last = owner
		}
		queues[owner] = q
		at++
	}
	return out
}

func cost(t catalog.WaitingTask) int64 {
	if t.Frames <= 0 {
		return quantum
	}
	return t.Frames
}
