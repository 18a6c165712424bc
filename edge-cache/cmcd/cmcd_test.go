package cmcd

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func said(n int64) Amount { return Amount{n, true} }

// sample is the query form of a player's request, as URLSearchParams encodes it.
const sample = `bl%3D12300%2Cbr%3D6000%2Cbs%2Ccid%3D%22abcdefghijklmnopqrstuvwxyz%22%2Ccom.example-myKey%3D%22a%2C+%5C%22b%5C%22%22%2Cd%3D2002%2Cdl%3D12300%2Cmtp%3D25400%2Cnor%3D%2200001.m4s%22%2Cot%3Dv%2Cpr%3D1.5%2Csf%3Dh%2Csid%3D%226e2fb550-c457-11e9-bb97-0800200c9a66%22%2Cst%3Dv%2Csu`

func TestParse(t *testing.T) {
	full := Report{Object: Video, Starved: true, Startup: true, Buffer: said(12300), Throughput: said(25400), Bitrate: said(6000)}
	for _, c := range []struct {
		from Shard
		in   string
		want Report
		err  error
	}{
		{Query, "", Report{}, nil},
		{Query, "bs", Report{Starved: true}, nil},
		{Query, "bs=?1,su=?0", Report{Starved: true}, nil},
		{Query, "bs,bs=?0", Report{}, nil},
		{Query, " bl=0 ,\tmtp=100 ", Report{Buffer: said(0), Throughput: said(100)}, nil},
		{Query, "bl=100,bl=200", Report{Buffer: said(200)}, nil},
		{Query, "ot=av", Report{Object: Muxed}, nil},
		{Query, "ot=tt,v=2", Report{Object: TimedText}, nil},
		{Query, "br=(6000;v 128;a),bl=(  2000 ),mtp=(),v=2", Report{}, ErrValue}, // an empty list has no number
		{Query, "br=(6000;v 128;a),bl=(  2000 ),v=2", Report{Bitrate: said(6000), Buffer: said(2000)}, nil},
		{Query, "br=6000;x=1;y,com.example-K=tok/en:1,e=:aGk=:,f=-1.5", Report{Bitrate: said(6000)}, nil},
		{Query, `nor="..%2Fa,b\"\\"`, Report{}, nil},
		{ObjectField, "br=1,ot=v,d=4004,tb=7", Report{Bitrate: said(1), Object: Video}, nil},
		{RequestField, "bl=1,dl=2,mtp=3,nor=\"x\",su", Report{Buffer: said(1), Throughput: said(3), Startup: true}, nil},
		{StatusField, "bs,rtp=15000", Report{Starved: true}, nil},
		{SessionField, `cid="x",sid="y",sf=h,st=v,v=1`, Report{}, nil},

		{StatusField, "bl=1", Report{}, ErrValue},
		{RequestField, "bs", Report{}, ErrValue},
		{SessionField, "ot=v", Report{}, ErrValue},
		{Query, "v=3", Report{}, ErrValue},
		{Query, "ot=x", Report{}, ErrValue},
		{Query, `ot="v"`, Report{}, ErrValue},
		{Query, "ot", Report{}, ErrValue},
		{Query, "bl", Report{}, ErrValue},
		{Query, "bl=-1", Report{}, ErrValue},
		{Query, "bl=1.5", Report{}, ErrValue},
		{Query, "bl=86400001", Report{}, ErrValue},
		{Query, "mtp=1000000001", Report{}, ErrValue},
		{Query, "bs=1", Report{}, ErrValue},
		{Query, "su=true", Report{}, ErrValue},
		{Query, "bl=1,", Report{}, ErrSyntax},
		{Query, ",bl=1", Report{}, ErrSyntax},
		{Query, "bl=1 mtp=2", Report{}, ErrSyntax},
		{Query, "bl= 1", Report{}, ErrSyntax},
		{Query, "bl=", Report{}, ErrSyntax},
		{Query, "1=1", Report{}, ErrSyntax},
		{Query, `cid="open`, Report{}, ErrSyntax},
		{Query, `cid="a\n"`, Report{}, ErrSyntax},
		{Query, "cid=\"\x01\"", Report{}, ErrSyntax},
		{Query, "br=(1", Report{}, ErrSyntax},
		{Query, `br=(1"a")`, Report{}, ErrSyntax},
		{Query, "br=1;", Report{}, ErrSyntax},
		{Query, "bl=1234567890123456", Report{}, ErrSyntax},
		{Query, "pr=1.2345", Report{}, ErrSyntax},
		{Query, "e=:aGk=", Report{}, ErrSyntax},
		{Query, "x=?2", Report{}, ErrSyntax},
		{Query, strings.Repeat("a,", MaxKeys) + "a", Report{}, ErrSize},
		{Query, `a="` + strings.Repeat("x", MaxBytes) + `"`, Report{}, ErrSize},
	} {
		r := Report{}
		require.Equal(t, c.err, r.Parse(c.from, []byte(c.in)), c.in)
		require.Equal(t, c.want, r, c.in)
	}
	r := Report{}
	require.NoError(t, r.ParseQuery(sample))
	require.Equal(t, full, r)
	require.Equal(t, ErrSyntax, r.ParseQuery("bl%3D1%2"))
	require.Equal(t, ErrSyntax, r.ParseQuery("bl%zz1"))
	require.Equal(t, ErrSize, r.ParseQuery("a="+strings.Repeat("x", MaxBytes)))
	require.Equal(t, full, r, "with an error it is as it was")
	require.Equal(t, "video", Video.String())
	require.Equal(t, "invalid", Objects.String())
}

func TestCut(t *testing.T) {
	for _, c := range []struct{ in, before, value, after string }{
		{"CMCD=bl%3D1", "", "bl%3D1", ""},
		{"p=eu-1&CMCD=a", "p=eu-1", "a", ""},
		{"CMCD=&r=eu", "", "", "r=eu"},
		{"p=CMCD=x&CMCD=a&r=eu", "p=CMCD=x", "a", "r=eu"},
	} {
		before, value, after, found := Cut(c.in)
		require.Equal(t, []any{c.before, c.value, c.after, true}, []any{before, value, after, found}, c.in)
	}
	for _, in := range []string{"", "CMCD", "cmcd=a", "xCMCD=a", "p=CMCD=a"} {
		before, _, _, found := Cut(in)
		require.False(t, found, in)
		require.Equal(t, in, before)
	}
}

func TestNoAllocations(t *testing.T) {
	query := "p=eu-1&CMCD=" + sample
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, v, _, _ := Cut(query)
		var r Report
		if r.ParseQuery(v) != nil || !r.Starved {
			t.Error("not read")
		}
	}))
}

func FuzzCMCD(f *testing.F) {
	for _, s := range []string{sample, "bl%3D0", "CMCD=bs&p=eu-1", "br=(6000;v 128;a),v=2", `nor="a\"b",su,ot=m`, "com.example-k=tok,bl=1;a=?1", "%2C", "bl=1,,", "a=(\"x\" :YQ==:)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// What is cut is put together again.
		before, v, after, found := Cut(s)
		if found {
			whole := argument + v
			if before != "" || strings.HasPrefix(s, "&") {
				whole = before + "&" + whole
			}
			if after != "" || strings.HasSuffix(s, "&") {
				whole += "&" + after
			}
			if whole != s && whole != s+"&" {
				t.Fatalf("%q cut into %q, %q, %q", s, before, v, after)
			}
		}
		for from := Query; from <= SessionField; from++ {
			r := Report{Buffer: Amount{7, true}}
			was := r
			if err := r.Parse(from, []byte(s)); err != nil && r != was {
				t.Fatalf("%q: %v, and %+v", s, err, r)
			}
			for _, a := range []Amount{r.Buffer, r.Throughput, r.Bitrate} {
				if a.N < 0 || a.N > maxRate || !a.Said && a.N != 0 {
					t.Fatalf("%q: %+v", s, r)
				}
			}
			if r.Object >= Objects {
				t.Fatalf("%q: %+v", s, r)
			}
		}
		// Both encodings say the same.
		var plain, coded Report
		err := plain.Parse(Query, []byte(s))
		if got := coded.ParseQuery(url.QueryEscape(s)); got != err || plain != coded {
			t.Fatalf("%q: %+v, %v; encoded %+v, %v", s, plain, err, coded, got)
		}
	})
}
