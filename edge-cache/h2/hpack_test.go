package h2

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// FuzzBlocks: whatever heads follow one another, prepared or not, and whatever table
// the client allows between them, it reads the fields that were written.
func FuzzBlocks(f *testing.F) {
	f.Add([]byte("\x02\x12\x05hello\x03\x02\x12\x05hello\x04\x31\x02xy"))
	f.Add([]byte("\x02\x01\x01a\x02\x12\x01b\x41\x02\x12\x01b\x01\x02\x12\x01b\xff\x02\x12\x01b"))
	names := append(append([]string{"x", "x-" + strings.Repeat("long", 40), "Content-Type", "connection"}, commonNames...), staticNames...)
	statuses := []int{200, 206, 304, 416, 503, 599}
	f.Fuzz(func(t *testing.T, b []byte) {
		next := func(n int) []byte {
			n = min(n, len(b))
			p := b[:n]
			b = b[n:]
			return p
		}
		one := func() int {
			for _, c := range next(1) {
				return int(c)
			}
			return 0
		}
		s := New(config)
		e := encoder{max: tableSize}
		var got []hpack.HeaderField
		d := hpack.NewDecoder(tableSize, func(h hpack.HeaderField) { got = append(got, hpack.HeaderField{Name: h.Name, Value: h.Value}) })
		for len(b) > 0 {
			op := one()
			if op%2 == 1 {
				n := uint32(op) * 32
				e.resize(n)
				d.SetAllowedMaxDynamicTableSize(min(n, tableSize))
				continue
			}
			status := statuses[op/4%len(statuses)]
			want := []hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(status)}}
			out := e.begin(nil, status)
			var fields []fastpath.HeadField
			open := 0
			values := fastpath.Values{{Number: int64(op)}, {Text: "Tue, 03 Mar 2026 12:00:00 GMT"}}
			for range op / 8 % 8 {
				n := one()
				field := fastpath.HeadField{Name: names[n%len(names)], Value: string(next(one()))}
				lower := strings.ToLower(field.Name)
				value := field.Value
				if field.Open = op%4 == 0 && n%5 == 0 && open < 2; field.Open {
					value += string(values[open].Append(nil))
					open++
				}
				if op%4 == 0 {
					fields = append(fields, field)
				} else {
					out = e.field(out, &s.common, lower, value)
				}
				if op%4 != 0 || field.Open || !aboutConnection(lower) {
					want = append(want, hpack.HeaderField{Name: lower, Value: value})
				}
			}
			out = e.prepared(out, s.block(fastpath.NewHead(http.StatusOK, fields)), &values)
			got = nil
			_, err := d.Write(out)
			require.NoError(t, err)
			require.NoError(t, d.Close())
			require.Equal(t, want, got)
		}
	})
}
