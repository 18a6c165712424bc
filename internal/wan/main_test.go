package wan

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if v := os.Getenv(victimVariable); v != "" {
		os.Exit(victim(v))
	}
	goleak.VerifyTestMain(m)
}

// needRoot skips a test where the kernel won't let it make namespaces.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: network namespaces and TUN devices need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
}

// newNetwork makes the nodes a, b, … at 198.18.1.1, 198.18.2.1, …, with the
// given paths.
func newNetwork(t testing.TB, nodes string, paths ...Path) *Network {
	t.Helper()
	needRoot(t)
	cfg := Config{Prefix: netip.MustParsePrefix("198.18.0.0/16"), Paths: paths, Seed: 1}
	for i, name := range nodes {
		cfg.Nodes = append(cfg.Nodes, Node{Name: string(name),
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i + 1), 1}), 32)}})
	}
	n, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func namespace(t testing.TB, n *Network, node string) *Namespace {
	t.Helper()
	ns, err := n.Namespace(node)
	require.NoError(t, err)
	return ns
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func linkStats(t testing.TB, n *Network, from, to string) LinkStats {
	t.Helper()
	for _, s := range n.Links() {
		if s.From == from && s.To == to {
			return s
		}
	}
	require.FailNow(t, "no link", "%s to %s", from, to)
	return LinkStats{}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
