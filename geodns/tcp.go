package geodns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// A resolver may keep its connection for a while and send a few queries over it (RFC 7766, 6.2.3).
	tcpIdle    = 10 * time.Second
	tcpRead    = 2 * time.Second
	tcpQueries = 128
	// tcpDrain is how long an answer may take to be sent when the server stops.
	tcpDrain = time.Second
)

// tcpServer answers queries over TCP (RFC 7766), each connection's one after the other.
type tcpServer struct {
	listener net.Listener
	zone     *zone
	reached  func() // called for every connection

	wg sync.WaitGroup
	mu sync.Mutex
	// conns are closed when the server stops; nil from then on.
	conns map[net.Conn]struct{}
}

// serve answers until ctx ends: idle connections are then closed at once, others
// when they have their answer or tcpDrain is over.
func (s *tcpServer) serve(ctx context.Context) error {
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		_ = s.listener.Close() // ends Accept
		s.stop()
	}()
	var err error
	for pause := time.Millisecond; ; {
		c, aerr := s.listener.Accept()
		if aerr == nil {
			pause = time.Millisecond
			s.reached()
			s.start(ctx, c)
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(aerr, net.ErrClosed) {
			err = fmt.Errorf("dns: %w", aerr)
			break
		}
		// Out of file descriptors, as a rule: those open will be closed.
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
	close(done)
	<-stopped
	s.wg.Wait()
	return err
}

func (s *tcpServer) start(ctx context.Context, c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = c.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			_ = c.Close() // the client sees it
		}()
		s.converse(ctx, c)
	})
}

// stop ends reads at once, and everything after tcpDrain.
func (s *tcpServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for c := range s.conns {
		_ = c.SetReadDeadline(now)
		_ = c.SetWriteDeadline(now.Add(tcpDrain))
	}
	s.conns = nil
}

// deadline sets a connection's deadline for its next step, unless the server stops.
func (s *tcpServer) deadline(c net.Conn, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns != nil && c.SetDeadline(time.Now().Add(d)) == nil
}

func (s *tcpServer) converse(ctx context.Context, c net.Conn) {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	client := ap.Addr().Unmap().WithZone("")
	w := s.zone.newWorker("tcp", 1)
	var length [2]byte
	buf := make([]byte, 512)
	for range tcpQueries {
		if !s.deadline(c, tcpIdle) {
			return
		}
		if _, err := io.ReadFull(c, length[:1]); err != nil {
			return
		}
		if !s.deadline(c, tcpRead) {
			return
		}
		if _, err := io.ReadFull(c, length[1:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n > len(buf) {
			buf = make([]byte, n)
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return
		}
		if s.zone.board.Settled(ctx); !s.deadline(c, tcpRead) {
			return
		}
		w.now = s.zone.now()
		s.zone.proofs.add(client, w.now)
		out := w.answer(buf[:n], client)
		if out == nil {
			return // no query: nothing good can follow
		}
		// Length and message in one segment (RFC 7766, 8).
		b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(out)), uint16(len(out)))
		if _, err := c.Write(append(b, out...)); err != nil {
			return
		}
	}
}
