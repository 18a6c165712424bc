package order

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/region"
)

const (
	// answeredTimeout bounds the wait for routers to answer with a challenge.
	answeredTimeout = time.Minute
	// askTimeout is how long a router may take, by UDP and again by TCP, before it
	// counts as dead.
	askTimeout = 2 * time.Second
	askPause   = 500 * time.Millisecond
)

// ErrNotAnswered: routers that live don't answer with a challenge's record.
var ErrNotAnswered = errors.New("not every name server answers with the challenge's record")

// solver answers DNS-01 challenges (RFC 8555, 8.4) by the platform's own zone.
type solver struct {
	shared  *certificate.Shared
	table   *region.Table
	timeout time.Duration
	now     func() time.Time
}

var (
	_ acmez.Solver = (*solver)(nil)
	_ acmez.Waiter = (*solver)(nil)
)

// Present implements acmez.Solver: it has the routers answer with the record.
func (s *solver) Present(ctx context.Context, c acme.Challenge) error {
	add := certificate.Challenge{Name: c.DNS01TXTRecordName(), Value: c.DNS01KeyAuthorization(), Until: s.now().Add(lease).UTC()}
	if !dns.IsSubDomain(dns.CanonicalName(s.table.Zone), dns.CanonicalName(add.Name)) {
		return fmt.Errorf("challenge %s: not in the zone %s", add.Name, s.table.Zone)
	}
	return s.shared.Change(ctx, func(st *certificate.State) error {
		st.Challenges = append(slices.DeleteFunc(st.Challenges, add.Same), add)
		return nil
	})
}

// CleanUp implements acmez.Solver.
func (s *solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, afterTimeout)
	defer cancel()
	gone := certificate.Challenge{Name: c.DNS01TXTRecordName(), Value: c.DNS01KeyAuthorization()}
	return s.shared.Change(ctx, func(st *certificate.State) error {
		st.Challenges = slices.DeleteFunc(st.Challenges, gone.Same)
		return nil
	})
}

// Wait implements acmez.Waiter: it returns when every router that answers at all
// answers with the record.
func (s *solver) Wait(ctx context.Context, c acme.Challenge) error {
	end := time.Now().Add(s.timeout)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	name, value := dns.Fqdn(c.DNS01TXTRecordName()), c.DNS01KeyAuthorization()
	tick := time.NewTicker(askPause)
	defer tick.Stop()
	var why string
	for {
		have, lack, silent := s.ask(ctx, name, value)
		if len(lack) == 0 && len(have) > 0 {
			return nil
		}
		// Those asked when the time is over are silent because of that. The clock tells
		// it: ctx may hear of it later than their connections.
		if time.Now().Before(end) || why == "" {
			why = fmt.Sprintf("%s have it, %s don't, %s are silent", regions(have), regions(lack), regions(silent))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", name, ErrNotAnswered, why)
		case <-tick.C:
		}
	}
}

func regions(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// ask asks all routers at once.
func (s *solver) ask(ctx context.Context, name, value string) (have, lack, silent []string) {
	type answer struct {
		region string
		has    bool
		err    error
	}
	answers := make(chan answer, len(s.table.Regions))
	for _, r := range s.table.Regions {
		go func() {
			has, err := askRouter(ctx, r.Router.DNS, name, value)
			answers <- answer{r.Name, has, err}
		}()
	}
	for range s.table.Regions {
		switch a := <-answers; {
		case a.err != nil:
			silent = append(silent, a.region)
		case a.has:
			have = append(have, a.region)
		default:
			lack = append(lack, a.region)
		}
	}
	return have, lack, silent
}

// askRouter reports whether a name server answers with a TXT record, an error when
// it doesn't answer by UDP nor TCP.
func askRouter(ctx context.Context, at, name, value string) (bool, error) {
	var errs []error
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network, Timeout: askTimeout, Dialer: &net.Dialer{Timeout: askTimeout}}
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeTXT)
		m.RecursionDesired = false
		r, _, err := c.ExchangeContext(ctx, m, at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r.Truncated && network == "udp" {
			continue
		}
		return slices.ContainsFunc(r.Answer, func(rr dns.RR) bool {
			txt, ok := rr.(*dns.TXT)
			return ok && strings.Join(txt.Txt, "") == value
		}), nil
	}
	return false, errors.Join(errs...)
}
