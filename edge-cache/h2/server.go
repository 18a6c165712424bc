package h2

import (
	"net/http"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// Config of a Server. Panicked is optional.
type Config struct {
	// Handler answers what Responder leaves to it.
	Handler   http.Handler
	Responder fastpath.Responder
	// HeaderTimeout bounds the time from a head's first byte to its last.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the time without any request.
	IdleTimeout time.Duration
	// WriteTimeout is the time in which WriteSize bytes must move, of a connection,
	// and of a response whose client lets it wait.
	WriteTimeout time.Duration
	WriteSize    int
	// MaxHeaderBytes bounds the head of a request, counted as RFC 9113 section
	// 6.5.2 does; larger ones get 431.
	MaxHeaderBytes int
	// Panicked is told of a panic of handler or responder, with the stack in place.
	// Without it the panic ends the process.
	Panicked func(any)
}

const (
	// maxStreams bounds the requests under way on a connection.
	maxStreams = 100
	// streamWindow bounds what a request may send before it is read, connWindow
	// what all of a connection may.
	streamWindow = 64 << 10
	connWindow   = 256 << 10
	// tableSize bounds the tables of header compression, ours and the client's.
	tableSize = 4096
	// maxFrame is how much of a body goes into a frame. Larger frames would keep
	// others waiting.
	maxFrame = 16 << 10
	// pingAfter is how long a client may be silent while it waits for answers before
	// it is asked whether it is there, and pingTimeout how long it has to say so.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
	// lingerTime is how long a client may take to close after it was told to.
	lingerTime = 2 * time.Second
	// lastCallAfter is how long a stopping server takes requests that were sent
	// before its client can have known.
	lastCallAfter = time.Second
)

// Server makes sessions of connections.
type Server struct {
	cfg    Config
	common interned
	works  sync.Pool // of *work
	// requests are the responder's while it is asked.
	requests sync.Pool // of *fastpath.Request
}

// New returns a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, works: sync.Pool{New: func() any { return new(work) }}, requests: sync.Pool{New: func() any { return new(fastpath.Request) }}}
	s.common.ids.Store(&map[commonKey]int{})
	return s
}

// work is what a writer needs while it writes.
type work struct{ plain [fastpath.RecordSize]byte }

// Session begins with a connection.
func (s *Server) Session(nc *fastpath.Conn) fastpath.Session { return newConn(s, nc) }
