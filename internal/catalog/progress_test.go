package catalog

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLeft(t *testing.T) {
	s := func(v float64) *float64 { return &v }
	for name, c := range map[string]struct {
		tracks []pace
		want   int64
		unsure bool
	}{
		"nothing is planned":  {nil, 0, true},
		"nothing has begun":   {[]pace{{Track: "v0", Total: 100, Pixels: 10}}, 0, true},
		"nothing is done":     {[]pace{{Track: "v0", Total: 100, Pixels: 10, Since: s(3), Took: s(3)}}, 0, true},
		"all is done":         {[]pace{{Track: "v0", Done: 100, Total: 100, Pixels: 10, Since: s(60), Took: s(10)}}, 0, false},
		"one task at a time":  {[]pace{{Track: "v0", Done: 25, Total: 100, Pixels: 10, Since: s(10), Took: s(10)}}, 30, false},
		"two at a time":       {[]pace{{Track: "v0", Done: 25, Total: 100, Pixels: 10, Since: s(10), Took: s(20)}}, 30, false},
		"a pause counts":      {[]pace{{Track: "v0", Done: 25, Total: 100, Pixels: 10, Since: s(20), Took: s(10)}}, 60, false},
		"a part of a second":  {[]pace{{Track: "v0", Done: 99, Total: 100, Pixels: 10, Since: s(9.9), Took: s(9.9)}}, 1, false},
		"larger rungs follow": {[]pace{{Track: "v0", Done: 50, Total: 100, Pixels: 10, Since: s(10), Took: s(10)}, {Track: "v1", Total: 100, Pixels: 40}}, 90, false},
		"they have begun": {[]pace{{Track: "v0", Done: 100, Total: 100, Pixels: 10, Since: s(40), Took: s(20)},
			{Track: "v1", Done: 50, Total: 100, Pixels: 40, Since: s(20), Took: s(20)}}, 20, false},
		"a copy tells nothing": {[]pace{{Track: "v0", Total: 100, Pixels: 10, Since: s(1), Took: s(1)}, {Track: "vc", Done: 100, Total: 100, Pixels: 40, Since: s(1), Took: s(1)}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := left(c.tracks)
			require.Equal(t, !c.unsure, ok)
			if ok {
				require.Equal(t, c.want, got)
			}
		})
	}
}
