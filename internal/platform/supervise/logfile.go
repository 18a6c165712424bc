package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A log is at most two files of this size: the current one and its predecessor.
const maxLogBytes = 8 << 20

// logPipe takes what a process and its descendants print, through all its
// incarnations, and keeps the end of it in a file.
type logPipe struct {
	r, w *os.File
	done chan struct{}
}

func newLogPipe(path string) (*logPipe, error) {
	out, err := openLog(path)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, out.f.Close())
	}
	l := &logPipe{r: r, w: w, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer out.Close()
		// Writer errors (a full disk) must not block the process behind the pipe: out swallows them.
		_, _ = io.Copy(out, r)
	}()
	return l, nil
}

func (l *logPipe) close() {
	l.w.Close()
	// A descendant may still hold the other end.
	_ = l.r.SetReadDeadline(time.Now().Add(time.Second))
	<-l.done
	l.r.Close()
}

type logFile struct {
	path string
	f    *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log: %w", err), f.Close())
	}
	return &logFile{path: path, f: f, size: info.Size()}, nil
}

// Write appends to the file and begins a new one when it is full. It never
// fails: a log that can't be written is lost, the process it belongs to isn't.
func (l *logFile) Write(b []byte) (int, error) {
	if l.size+int64(len(b)) > maxLogBytes {
		l.rotate()
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
	return len(b), nil
}

func (l *logFile) rotate() {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	l.f.Close()
	l.f, l.size = f, 0
}

// Close closes the file.
func (l *logFile) Close() error { return l.f.Close() }

// Tail returns the last lines of a log, for messages.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 2000
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
