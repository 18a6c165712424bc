package drill

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/score"
)

const pressureFile = "/proc/pressure/cpu"

// pressure notes each second how long processes had to wait for a CPU (the
// kernel's pressure stall information). A kernel without it has none to note.
type pressure struct {
	mu   sync.Mutex
	list []score.Pressure
}

func (p *pressure) run(ctx context.Context) {
	last, err := readPressure()
	if err != nil {
		return
	}
	at := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			total, err := readPressure()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.list = append(p.list, score.Pressure{At: now, Some: min(1, (total-last).Seconds()/now.Sub(at).Seconds())})
			p.mu.Unlock()
			last, at = total, now
		}
	}
}

func (p *pressure) all() []score.Pressure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list[:len(p.list):len(p.list)]
}

// readPressure is for how long in all some process had to wait.
func readPressure() (time.Duration, error) {
	b, err := os.ReadFile(pressureFile)
	if err != nil {
		return 0, err
	}
	for field := range strings.FieldsSeq(string(b)) {
		if us, ok := strings.CutPrefix(field, "total="); ok {
			n, err := strconv.ParseInt(us, 10, 64)
			return time.Duration(n) * time.Microsecond, err // the first line is "some"
		}
	}
	return 0, fmt.Errorf("%s: no total", pressureFile)
}
