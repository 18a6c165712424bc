package region

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoopbackRoundTrips(t *testing.T) {
	for _, names := range [][]string{nil, {"eu"}, {"us", "ap"}} {
		tab, err := Loopback(names...)
		require.NoError(t, err)
		b, err := tab.Marshal()
		require.NoError(t, err)
		got, err := Parse(b)
		require.NoError(t, err, string(b))
		require.Equal(t, tab, got)
	}
	_, err := Loopback("mars")
	require.ErrorContains(t, err, `unknown region "mars"`)
}

func TestNearest(t *testing.T) {
	tab, err := Loopback()
	require.NoError(t, err)
	for from, want := range map[string][]string{
		"eu": {"eu", "us", "ap"}, "us": {"us", "eu", "ap"}, "ap": {"ap", "eu", "us"}, "": {"eu", "us", "ap"},
	} {
		var got []string
		for _, r := range tab.Nearest(from) {
			got = append(got, r.Name)
		}
		require.Equal(t, want, got, "from %q", from)
	}
	require.Equal(t, "127.3.0.1:5432,127.1.0.1:5432,127.2.0.1:5432", tab.PostgresDSNHosts("ap"))
	require.Equal(t, 2, tab.Copies())
}

func TestParseNamesEveryProblem(t *testing.T) {
	_, err := Parse([]byte(`
zone: meridian.test.
regions:
  - name: EU
    latitude: 99
    api: 127.0.0.1
    router: {url: "http://a:1/", dns: "", addresses: ["::"]}
    s3: http://127.0.0.1:9000
    nats: http://127.0.0.1
    edges: [{name: e_1, url: "http://x:1"}]
    rtt: {us: 1ms}
`))
	for _, want := range []string{"zone", "DNS label", "latitude", "api", "router.url", "router.dns", "router.addresses", "nats", `edge "e_1"`,
		"addresses", `no other region "us"`, "control: true"} {
		require.ErrorContains(t, err, want)
	}
	_, err = Parse([]byte("zone: a.b\nregoins: []\n"))
	require.ErrorContains(t, err, "regoins")
}
