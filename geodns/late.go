package geodns

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/geo"
)

// maxLate bounds the queries that wait at one socket.
const maxLate = 1024

// lateQuery is a packet that waits for the board's doubt to end.
type lateQuery struct {
	query   []byte
	name    unix.RawSockaddrInet6
	nameLen uint32
	control []byte
	doubt   *geo.Doubt
	due     time.Time
}

// late answers a socket's queries that came in while the board was in doubt, in
// the order they came in: when the doubt is over, or, when they have waited for as
// long as that takes over a line that works, by asking for TCP. A connection shows
// that packets go both ways.
type late struct {
	batch *batch
	queue chan lateQuery
}

func newLate(b *batch) *late { return &late{batch: b, queue: make(chan lateQuery, maxLate)} }

// hold takes in packet i of a batch; false when it should be answered at once,
// because too many wait.
func (l *late) hold(b *batch, i int, d *geo.Doubt) bool {
	in := &b.in[i]
	q := lateQuery{query: append([]byte(nil), b.queries[i][:in.len]...), name: b.names[i], nameLen: in.hdr.Namelen,
		doubt: d, due: time.Now().Add(d.Wait)}
	if b.destination {
		q.control = append(q.control, b.control[i][:in.hdr.Controllen]...)
	}
	select {
	case l.queue <- q:
		return true
	default:
		return false
	}
}

// serve answers until ctx ends, or the socket is closed.
func (l *late) serve(ctx context.Context) error {
	write := l.batch.write
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var q lateQuery
		select {
		case <-ctx.Done():
			return nil
		case q = <-l.queue:
		}
		timer.Reset(time.Until(q.due))
		select {
		case <-ctx.Done():
			return nil
		case <-q.doubt.Over:
		case <-timer.C:
		}
		l.batch.worker.doubtful = l.batch.worker.zone.board.Load().Doubt != nil
		l.batch.load(q)
		l.batch.answer()
		if l.batch.ready > 0 {
			if err := l.batch.raw.Write(write); err != nil {
				return err
			}
		}
	}
}

// load makes a batch of one packet.
func (b *batch) load(q lateQuery) {
	in := &b.in[0]
	b.received, b.names[0] = 1, q.name
	in.len, in.hdr.Namelen, in.hdr.Flags = uint32(copy(b.queries[0][:], q.query)), q.nameLen, 0
	in.hdr.SetControllen(copy(b.control[0][:], q.control))
	in.hdr.Control = &b.control[0][0]
}
