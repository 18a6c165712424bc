package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// conn is a connection.
type conn struct {
	srv    *Server
	nc     *fastpath.Conn
	remote string
	// ctx ends with the connection; requests' contexts are its children.
	ctx    context.Context
	cancel context.CancelFunc

	// The reading goroutine's.
	in      input
	framer  *http2.Framer
	decoder *hpack.Decoder
	head    head // being read
	begun   bool // the preface was read,
	settled bool // and the client's settings
	fuss    fuss

	// earned counts bytes of bodies sent, which pay for frames the client sends.
	earned atomic.Int64

	mu      sync.Mutex
	enc     encoder
	out     []byte    // frames that go before bodies
	drained sync.Cond // out has become empty, or the connection has failed
	// writing: somebody has the role of the writer.
	writing bool
	unwrite sync.Cond // nobody has any more
	ready   [urgencies]queue
	// waiting are the streams whose bodies wait for the connection's window.
	waiting queue
	done    []finished
	err     error // the connection has failed: nothing more is sent

	streams  map[uint32]*stream
	handlers int       // that run
	quiet    sync.Cond // none does
	idle     time.Time // since when there is neither stream nor handler
	lastID   uint32    // the highest stream the client began
	recent   recent

	// window is what the client takes of all bodies, initial of a new stream's.
	window, initial int64
	// room is what the client may send of content, owed what it isn't told of yet.
	room, owed int64

	stall
	stopping  bool // the client was told that no new requests are taken soon,
	last      bool // and that none are above lastTaken
	lastTaken uint32
	lastCall  *time.Timer
	finished  bool // all is answered: Serve is to return
	closing   bool // Serve does
}

func newConn(s *Server, nc *fastpath.Conn) *conn {
	c := &conn{srv: s, nc: nc, remote: nc.RemoteAddr().String(), streams: map[uint32]*stream{}, idle: time.Now(),
		enc: encoder{max: tableSize}, window: defaultWindow, initial: defaultWindow, room: connWindow}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, cond := range []*sync.Cond{&c.drained, &c.unwrite, &c.quiet} {
		cond.L = &c.mu
	}
	c.framer = http2.NewFramer(nil, c)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxFrame)
	c.decoder = hpack.NewDecoder(tableSize, c.head.add)
	// Strings are bounded by the block.
	c.out = appendSettings(c.out, []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams}, {ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(s.cfg.MaxHeaderBytes)}, {ID: http2.SettingNoRFC7540Priorities, Val: 1}})
	c.out = appendWindowUpdate(c.out, 0, connWindow-defaultWindow)
	return c
}

// defaultWindow is that of both sides until they agree on others.
const defaultWindow = 65535

// Why connections end that broke no rule.
var (
	errIdle   = errors.New("the connection is idle")
	errSilent = errors.New("the client is silent")
	errDone   = errors.New("all is answered")
	errRests  = errors.New("the client rests") // no end: Serve goes on later
)

// fault is a connection error (RFC 9113 section 5.4.1).
type fault struct {
	code http2.ErrCode
	why  string
}

func (f fault) Error() string { return f.code.String() + ": " + f.why }

// Serve implements fastpath.Session.
func (c *conn) Serve() (rests bool) {
	c.nc.Gather()
	err := c.readAll()
	if errors.Is(err, errRests) {
		return true
	}
	c.end(err)
	return false
}

// Stop implements fastpath.Session: it sends GOAWAY twice (RFC 9113 section 6.8), so
// that what is on its way is answered.
func (c *conn) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping || c.err != nil {
		return
	}
	c.stopping = true
	c.out = appendGoAway(c.out, 1<<31-1, http2.ErrCodeNo)
	c.out = appendPing(c.out, false, lastCallPing)
	c.kick()
	c.lastCall = time.AfterFunc(lastCallAfter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refuseNew()
	})
}

// lastCallPing is answered when the client has read the first GOAWAY.
var lastCallPing = [8]byte{'l', 'a', 's', 't', 'c', 'a', 'l', 'l'}

// refuseNew takes no new streams from now on.
func (c *conn) refuseNew() {
	if c.last || c.err != nil {
		return
	}
	c.last, c.lastTaken = true, c.lastID
	c.out = appendGoAway(c.out, c.lastTaken, http2.ErrCodeNo)
	c.kick()
	c.settle()
}

// settle finds whether a stream or handler that has ended was the last. The caller
// holds mu, as of all methods below that don't say otherwise.
func (c *conn) settle() {
	if c.handlers == 0 {
		c.quiet.Broadcast()
	}
	if c.handlers > 0 || len(c.streams) > 0 {
		return
	}
	c.idle = time.Now()
	if c.last && !c.finished {
		c.finished = true
		_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes Serve
	}
}

// fail ends everything at once: the connection can't be written to any more.
func (c *conn) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.nc.Abort()
	c.dropAll(err)
}

// dropAll ends all streams.
func (c *conn) dropAll(err error) {
	c.cancel()
	for _, s := range c.streams {
		c.drop(s, err)
	}
	c.drained.Broadcast()
}

// end ends the connection for the reason err, and waits for all that runs.
func (c *conn) end(err error) {
	code, say := http2.ErrCodeNo, false
	var f fault
	var frame http2.ConnectionError
	switch {
	case errors.As(err, &f):
		code, say = f.code, true
	case errors.As(err, &frame):
		code, say = http2.ErrCode(frame), true
	case errors.Is(err, http2.ErrFrameTooLarge):
		code, say = http2.ErrCodeFrameSize, true
	case errors.Is(err, errIdle):
		say = true
	}
	c.mu.Lock()
	if !errors.Is(err, errDone) {
		c.dropAll(err)
	}
	polite := c.err == nil && (say || errors.Is(err, errDone))
	if say && polite {
		c.out = appendGoAway(c.out, c.lastID, code)
	}
	if c.closing = true; c.err == nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(lingerTime))
	}
	if !polite {
		c.fail(err)
	}
	for c.writing {
		c.unwrite.Wait()
	}
	if c.err == nil && c.work() {
		c.writing = true
		c.mu.Unlock()
		c.writeOn()
		c.mu.Lock()
	}
	polite = polite && c.err == nil
	if c.lastCall != nil {
		c.lastCall.Stop()
	}
	c.stall.stop()
	c.mu.Unlock()
	if polite {
		c.nc.CloseWrite(lingerTime)
	}
	c.mu.Lock()
	c.fail(io.EOF)
	for c.handlers > 0 {
		c.quiet.Wait()
	}
	done := c.done
	c.done = nil
	c.mu.Unlock()
	c.report(done, err)
	c.in.free()
}

func (c *conn) readPreface() error {
	var preface [len(http2.ClientPreface)]byte
	c.in.begin()
	if _, err := io.ReadFull(c, preface[:]); err != nil {
		return err
	}
	if string(preface[:]) != http2.ClientPreface {
		return fault{http2.ErrCodeProtocol, "no preface"}
	}
	c.begun = true
	return nil
}

// readAll handles frames until the connection is to end, or rests.
func (c *conn) readAll() error {
	if !c.begun {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	for ; ; c.settled = true {
		if !c.head.open {
			c.in.ended()
		}
		fh, err := c.framer.ReadFrameHeader()
		if err != nil {
			return err
		}
		if !c.settled && (fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck)) {
			return fault{http2.ErrCodeProtocol, "no settings"}
		}
		if fh.Type == http2.FrameData {
			c.in.unhurried()
		}
		f, err := c.framer.ReadFrameForHeader(fh)
		if err == nil {
			err = c.handle(f)
		} else {
			err = c.badFrame(fh, err)
		}
		if err != nil {
			return err
		}
		if err := c.heldUp(); err != nil {
			return err
		}
	}
}

// badFrame ends the stream of a frame that can't be understood, where that is enough.
func (c *conn) badFrame(fh http2.FrameHeader, err error) error {
	var bad http2.StreamError
	switch {
	case !errors.As(err, &bad):
		return err
	case fh.Type == http2.FrameHeaders:
		return fault{bad.Code, "bad HEADERS"} // the table isn't known any more
	}
	return c.refuse(bad.StreamID, bad.Code)
}

// maxOut is how much of frames may wait before nothing more is read.
const maxOut = 64 << 10

// heldUp waits while the client doesn't take what it is told.
func (c *conn) heldUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) > maxOut && c.err == nil {
		c.kick()
		c.drained.Wait()
	}
	return c.err
}

// input is what was read but not used, and since when something is half read.
type input struct {
	b     *inputBuffer
	r, w  int
	one   [1]byte
	half  bool
	slow  bool
	since time.Time // zero until it matters
	until time.Time // the deadline in force
	asked time.Time // a ping was sent; zero without
	heard time.Time // the last bytes came
	rests bool      // nothing has come since it was found that the client rests
}

type inputBuffer [4 << 10]byte

var inputBuffers = sync.Pool{New: func() any { return new(inputBuffer) }}

// begin notes that something has begun that must end in time.
func (i *input) begin() { i.half = true }

// ended notes that nothing is half read.
func (i *input) ended() { i.half, i.slow, i.since = false, false, time.Time{} }

// unhurried notes that what is half read may take its time: content.
func (i *input) unhurried() { i.half, i.slow = false, true }

// come notes that n bytes have come in.
func (i *input) come(n int) {
	i.w = n
	i.heard, i.asked, i.rests = time.Time{}, time.Time{}, false
}

func (i *input) free() {
	if i.b != nil {
		inputBuffers.Put(i.b)
		i.b = nil
	}
}

// Read implements io.Reader for the framer. It writes what there is to be written
// before it waits.
func (c *conn) Read(p []byte) (int, error) {
	i := &c.in
	if i.r == i.w {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, i.b[i.r:i.w])
	i.r += n
	i.half = !i.slow
	return n, nil
}

// fill reads some bytes.
func (c *conn) fill() error {
	i := &c.in
	i.r, i.w = 0, 0
	if i.b == nil {
		i.b = inputBuffers.Get().(*inputBuffer)
	}
	n, err := c.nc.ReadHere(i.b[:])
	if n > 0 || err != nil {
		i.come(n)
		return err
	}
	c.turn()
	i.free()
	for {
		now := time.Now()
		if err := c.await(now); err != nil {
			return err
		}
		n, err := c.nc.Read(i.one[:])
		if n > 0 {
			i.b = inputBuffers.Get().(*inputBuffer)
			i.b[0] = i.one[0]
			n, _ = c.nc.ReadHere(i.b[1:]) // an error comes again
			i.come(1 + n)
			return nil
		}
		var timeout net.Error
		if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		i.until = time.Time{}
	}
}

// await sets how long to wait for the client, or finds that it was long enough, or
// that the client rests, which is then waited for elsewhere.
func (c *conn) await(now time.Time) error {
	i := &c.in
	c.mu.Lock()
	defer c.mu.Unlock()
	patience := min(pingAfter, c.srv.cfg.IdleTimeout/2)
	var until time.Time
	switch {
	case c.err != nil:
		return c.err
	case c.finished:
		return errDone
	case i.half:
		if i.since.IsZero() {
			i.since = now
		}
		if until = i.since.Add(c.srv.cfg.HeaderTimeout); !until.After(now) {
			return errSilent
		}
	case len(c.streams) == 0 && c.handlers == 0:
		if until = c.idle.Add(c.srv.cfg.IdleTimeout); !until.After(now) {
			return errIdle
		}
		if i.slow || i.rests {
			break // a frame isn't left half read
		}
		if rest := c.idle.Add(c.srv.cfg.IdleTimeout / fastpath.RestShare); rest.After(now) {
			until = rest
		} else {
			i.rests, i.until = true, until
			return errors.Join(c.nc.SetReadDeadline(until), errRests)
		}
	case !i.asked.IsZero():
		if until = i.asked.Add(pingTimeout); !until.After(now) {
			return errSilent
		}
	default:
		if i.heard.IsZero() {
			i.heard = now
		}
		if until = i.heard.Add(patience); !until.After(now) {
			c.out = appendPing(c.out, false, [8]byte{})
			c.kick()
			i.asked = now
			until = now.Add(pingTimeout)
		}
	}
	// Set again only where it matters: it costs more than reading. A deadline that
	// is too early is looked at again when it has passed.
	if d := i.until.Sub(until); i.until.IsZero() || d > 0 || d < -until.Sub(now)/16 {
		i.until = until
		return c.nc.SetReadDeadline(until)
	}
	return nil
}
