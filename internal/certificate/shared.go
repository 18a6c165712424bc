package certificate

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
)

// Names returns the names certificates are for: what is reached under play., edge.
// and api. of the zone, and one label below them, where routers, edges and APIs
// have names of their own.
func Names(zone string) []string {
	var out []string
	for _, base := range []string{"play", "edge", "api"} {
		out = append(out, base+"."+zone, "*."+base+"."+zone)
	}
	return out
}

// Shared is the state of certificates that all regions share, as one process
// knows it. Safe for concurrent use.
type Shared struct {
	zone    string
	sealed  *journal.Sealed
	metrics *Metrics
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[known]

	mu      sync.Mutex
	changed chan struct{} // closed with the next change, and replaced
	watch   func([]Challenge)
}

// known is a state and the certificates in use since.
type known struct {
	state State
	certs map[string]*tls.Certificate // by DNS name
}

// NewShared returns the certificates in the stores, sealed with a key made of
// secret. challenges, which may be nil, is told the challenges of each state, one
// at a time. m may be nil.
func NewShared(store *objects.Store, table *region.Table, secret string, challenges func([]Challenge), m *Metrics, log *slog.Logger) (*Shared, error) {
	key, err := journal.NewSealKey(secret)
	if err != nil {
		return nil, fmt.Errorf("certificates key: %w", err)
	}
	s := &Shared{zone: table.Zone, metrics: m, log: log, now: time.Now, changed: make(chan struct{}), watch: challenges}
	s.current.Store(&known{})
	s.sealed = journal.NewSealed(store, table, objects.CertificatesJournal, key, s.apply, log)
	return s, nil
}

// Run follows the journal until ctx ends.
func (s *Shared) Run(ctx context.Context) error { return s.sealed.Run(ctx) }

// Known is closed once the newest state was read, or there is none.
func (s *Shared) Known() <-chan struct{} { return s.sealed.Known() }

// State returns the newest state known. It must not be changed.
func (s *Shared) State() State { return s.current.Load().state }

// Changed returns a channel that is closed with the next change.
func (s *Shared) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Change makes the next state of the newest there is, in all regions. change may
// be called more than once, with the state that then is the newest; when it leaves
// the state as it is, or returns an error, nothing is written.
func (s *Shared) Change(ctx context.Context, change func(*State) error) error {
	err := s.sealed.Change(ctx, func(plain []byte) ([]byte, error) {
		st, err := parseState(plain)
		if err != nil {
			return nil, err
		}
		if st.Files == nil {
			st.Files = map[string]File{}
		}
		if st.Locks == nil {
			st.Locks = map[string]Lock{}
		}
		if err := change(&st); err != nil {
			return nil, err
		}
		return st.encode(s.now())
	})
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	return nil
}

// apply puts a state in force. It is called for one at a time.
func (s *Shared) apply(plain []byte) error {
	st, err := parseState(plain)
	if err != nil {
		return err
	}
	next := &known{state: st, certs: map[string]*tls.Certificate{}}
	for name, c := range s.current.Load().certs {
		next.certs[name] = c
	}
	st.pairs(func(crt, key []byte) {
		pair, err := tls.X509KeyPair(crt, key)
		if err != nil {
			s.log.Error("certificate: one in the stores can't be used", "err", err)
			return
		}
		for _, name := range pair.Leaf.DNSNames {
			// Another CA's may be there as well: what was issued last is meant.
			if have := next.certs[name]; have == nil || pair.Leaf.NotBefore.After(have.Leaf.NotBefore) {
				next.certs[name] = &pair
				s.metrics.shared(name, pair.Leaf)
				s.log.Info("certificate", "name", name, "serial", fmt.Sprintf("%x", pair.Leaf.SerialNumber), "expires", pair.Leaf.NotAfter)
			}
		}
	})
	s.current.Store(next)
	if s.watch != nil {
		s.watch(st.Challenges)
	}
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return nil
}

// For returns the certificates as those of a program that is reached under base
// ("edge") of the zone: clients that name no server get base's.
func (s *Shared) For(base string) Source {
	name := base + "." + s.zone
	s.metrics.Wanted(name, "*."+name)
	return sharedSource{s, name}
}

type sharedSource struct {
	shared *Shared
	name   string
}

// GetCertificate implements Source.
func (s sharedSource) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := s.name
	if h != nil && h.ServerName != "" {
		name = strings.ToLower(strings.TrimSuffix(h.ServerName, "."))
	}
	certs := s.shared.current.Load().certs
	if c := certs[name]; c != nil {
		return c, nil
	}
	if _, above, ok := strings.Cut(name, "."); ok {
		if c := certs["*."+above]; c != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w for %q", ErrNone, name)
}

// Ready implements Source.
func (s sharedSource) Ready() error {
	_, err := s.GetCertificate(nil)
	return err
}
