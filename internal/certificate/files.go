package certificate

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// filesInterval is how often the files are looked at, at most.
const filesInterval = 10 * time.Second

// Files is the certificate in two files, as far as it can be read.
type Files struct {
	cert, key string
	metrics   *Metrics
	log       *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	changed [2]time.Time
	pair    *tls.Certificate
}

// OpenFiles returns the certificate in the files (PEM), which are read again when
// they have changed. m may be nil.
func OpenFiles(cert, key string, m *Metrics, log *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, metrics: m, log: log}
	if err := f.Ready(); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return f, nil
}

// GetCertificate implements Source. A pair that can't be read, as while it is
// being replaced, leaves the one in use.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pair != nil && time.Since(f.looked) < filesInterval {
		return f.pair, nil
	}
	f.looked = time.Now()
	if err := f.load(); err != nil {
		if f.pair == nil {
			return nil, err
		}
		f.log.Warn("certificate: keeping the one in use", "err", err)
	}
	return f.pair, nil
}

// Ready implements Source.
func (f *Files) Ready() error {
	_, err := f.GetCertificate(nil)
	return err
}

func (f *Files) load() error {
	var changed [2]time.Time
	for i, file := range []string{f.cert, f.key} {
		st, err := os.Stat(file)
		if err != nil {
			return err
		}
		changed[i] = st.ModTime()
	}
	if f.pair != nil && changed == f.changed {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	f.pair, f.changed = &pair, changed
	f.metrics.inUse(nameOf(pair.Leaf), pair.Leaf)
	return nil
}
