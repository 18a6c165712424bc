package edgecache

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/cmcd"
	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/token"
)

// fast answers plain GETs and HEADs of what is in memory, or on disk where the kernel
// can send it from there: segments, init segments, extras and composed playlists, where the
// asset's record and the token are known and no rule looks at who asks. Its answers are those of handler, whose header fields
// it keeps beside the object. It allocates nothing.
type fast struct {
	h     *handler
	date  atomic.Pointer[httpDate]
	kinds [2 * fromDisk]fastMetrics // by an answer's Kind
}

// fromDisk is added to an answer's Kind where the object is on disk.
const fromDisk = int(kindHealth)

type fastMetrics struct {
	how      string
	requests prometheus.Counter
	parts    prometheus.Counter
	fast     prometheus.Counter
	bytes    prometheus.Counter
	seconds  prometheus.Observer
}

func newFast(h *handler) *fast {
	f := &fast{h: h}
	of := func(k kind, how string) fastMetrics {
		return fastMetrics{how, h.metrics.requests.WithLabelValues(k.String(), strconv.Itoa(http.StatusOK), how),
			h.metrics.requests.WithLabelValues(k.String(), strconv.Itoa(http.StatusPartialContent), how), h.metrics.fast.WithLabelValues(k.String(), how),
			h.metrics.bytes.WithLabelValues(how), h.metrics.seconds.WithLabelValues(how)}
	}
	for k := kindMaster; k < kindHealth; k++ {
		how := string(cache.Memory)
		if k == kindMedia {
			how = composedLabel
		}
		f.kinds[k] = of(k, how)
		f.kinds[int(k)+fromDisk] = of(k, string(cache.Disk))
	}
	return f
}

// Respond implements fastpath.Responder.
func (f *fast) Respond(r *fastpath.Request) (fastpath.Answer, bool) {
	fields := false // of CMCD
	for _, field := range r.Fields {
		if field.HasPrefix("cmcd-") {
			fields = true
		} else if !immaterial(field) {
			return fastpath.Answer{}, false
		}
	}
	path, rawQuery, asks := bytes.Cut(r.Target, []byte{'?'})
	if len(path) > maxPath || len(rawQuery) > maxQuery {
		return fastpath.Answer{}, false
	}
	// Strings over the connection's bytes: nothing below keeps them.
	t, ok := parsePath(unsafe.String(unsafe.SliceData(path), len(path)))
	if !ok || t.kind == kindMaster || t.kind == kindHealth {
		return fastpath.Answer{}, false
	}
	var q splitQuery
	if asks {
		if q = split(unsafe.String(unsafe.SliceData(rawQuery), len(rawQuery))); q.again {
			return fastpath.Answer{}, false
		}
	}
	if t.kind == kindMedia && (t.object != hls.MediaName || mayAsk(q.before) || mayAsk(q.after)) {
		return fastpath.Answer{}, false
	}
	if f.h.log.Enabled(context.Background(), slog.LevelDebug) {
		// One in so many is logged, which the handler does.
		if f.h.answered.Add(1)%f.h.sample == 0 {
			f.h.answered.Add(^uint64(0))
			return fastpath.Answer{}, false
		}
	}
	g, ok := f.h.guard.recall(t)
	if !ok || !g.record.Placement.Allows(f.h.sites.here.Name) {
		return fastpath.Answer{}, false
	}
	now := time.Now()
	f.h.drain.seen(now)
	start := len("/v/") + len(t.token) + len("/")
	if t.kind == kindMedia {
		run := path[start : start+len(t.asset)+1+len(t.run)]
		p := f.h.composer.Known(unsafe.String(unsafe.SliceData(run), len(run)), t.rendition)
		if p == nil || len(p.body) == 0 {
			return fastpath.Answer{}, false
		}
		head := p.head.Load()
		if head == nil {
			head = prepareHead(fastpath.PrepareHead, f.h.composedContent(p), f.h.composedStatus())
			p.head.Store(head)
		}
		if r.Selects() {
			a, part, ok := f.selected(r, f.h.composedContent(p), f.h.composedStatus(), now)
			if ok {
				f.observe(q, fields, r.Fields)
			}
			a.Body, a.Kind = p.body[part.Start:part.Start+part.Length], int(t.kind)
			return a, ok
		}
		f.observe(q, fields, r.Fields)
		return fastpath.Answer{Head: head, Values: fastpath.Values{{Text: f.dateAt(now)}}, Body: p.body, Kind: int(t.kind)}, true
	}
	var scratch [512]byte
	o := f.h.cache.Hit(append(append(scratch[:0], "streams/"...), path[start:]...), r.Files)
	if o == nil {
		return fastpath.Answer{}, false
	}
	a, ok := f.object(r, o, t, now)
	if !ok {
		o.Release()
		return fastpath.Answer{}, false
	}
	if a.Kind >= fromDisk && t.kind == kindSegment {
		f.h.ahead(t, g.record.Placement)
	}
	f.observe(q, fields, r.Fields)
	return a, true
}

// object answers with an object, or a part of it.
func (f *fast) object(r *fastpath.Request, o *cache.Object, t target, now time.Time) (fastpath.Answer, bool) {
	size := o.Info().Size
	if size == 0 {
		return fastpath.Answer{}, false
	}
	tier, kind := cache.Memory, int(t.kind)
	if o.OnDisk() {
		tier, kind = cache.Disk, kind+fromDisk
	}
	slot := 0
	if t.token != token.None {
		slot = 1
	}
	head, ok := o.Memo(slot).(*fastpath.Head)
	if !ok {
		mime, control := t.delivery()
		head = prepareHead(fastpath.PrepareHead, objectContent(o, mime, control), f.h.cacheStatus(cache.Outcome{Tier: tier}))
		o.SetMemo(slot, head)
	}
	age := fastpath.Value{Number: max(0, int64(now.Sub(o.Info().Fetched)/time.Second))}
	if part, named, ok := r.Part(size); ok {
		of := head.Part.Load()
		if of == nil {
			mime, control := t.delivery()
			of = prepareHead(fastpath.PreparePart, objectContent(o, mime, control), f.h.cacheStatus(cache.Outcome{Tier: tier}))
			head.Part.Store(of)
		}
		a := fastpath.Answer{Head: of, Values: fastpath.Values{age, {Number: part.Length}, {Text: named}, {Text: f.dateAt(now)}}, Kind: kind}
		a.Take(o, part)
		return a, true
	}
	if r.Selects() {
		mime, control := t.delivery()
		a, part, ok := f.selected(r, objectContent(o, mime, control), f.h.cacheStatus(cache.Outcome{Tier: tier}), now)
		if a.Kind = kind; ok {
			a.Take(o, part)
		}
		return a, ok
	}
	a := fastpath.Answer{Head: head, Values: fastpath.Values{age, {Text: f.dateAt(now)}}, Kind: kind}
	a.Take(o, deliver.Span{Length: size})
	return a, true
}

// selected answers a HEAD, or a GET with a range or conditions, but for the body: that
// is a part of the content's.
func (f *fast) selected(r *fastpath.Request, c *content, status string, now time.Time) (fastpath.Answer, deliver.Span, bool) {
	c.body = fastpath.Unseen{}
	w, req := r.NewSelection()
	commonHeader(w.Header())
	w.Header().Set("Cache-Status", status)
	if err := serveContent(w, req, c, &answer{}); err != nil {
		return fastpath.Answer{}, deliver.Span{}, false // the handler's to say
	}
	return w.Answer(f.dateAt(now))
}

// splitQuery is a raw query in parts: what is before and after the CMCD argument.
type splitQuery struct {
	before, report, after string
	told                  bool // there is the argument
	again                 bool // there is another
}

func split(rawQuery string) (q splitQuery) {
	q.before, q.report, q.after, q.told = cmcd.Cut(rawQuery)
	if q.told {
		_, _, _, q.again = cmcd.Cut(q.after)
	}
	return q
}

// mayAsk reports whether a part of a query may ask for a playlist of another form.
func mayAsk(query string) bool {
	return strings.IndexByte(query, '%') >= 0 || strings.Contains(query, "steering")
}

// observe counts what the player says, if it does, as cutReport and told.fields read
// it: in the query, or in fields.
func (f *fast) observe(q splitQuery, there bool, fields []fastpath.Field) {
	if !q.told && !there {
		return
	}
	var t told
	if q.report != "" {
		t.any, t.err = true, t.report.ParseQuery(q.report)
	} else {
		for _, x := range fieldOf {
			for _, field := range fields {
				if field.Is(x.lower) {
					t.field(x.shard, field.Value)
				}
			}
		}
	}
	f.h.metrics.players.observe(&t)
}

// Responded implements fastpath.Responder.
func (f *fast) Responded(a *fastpath.Answer, sent int64, took time.Duration, err error) {
	m := &f.kinds[a.Kind]
	switch a.Head.Status {
	case http.StatusOK:
		m.requests.Inc()
	case http.StatusPartialContent:
		m.parts.Inc()
	default:
		f.h.metrics.requests.WithLabelValues(kind(a.Kind%fromDisk).String(), strconv.Itoa(a.Head.Status), m.how).Inc()
	}
	m.fast.Inc()
	m.bytes.Add(float64(sent))
	m.seconds.Observe(took.Seconds())
	if err != nil {
		f.h.metrics.aborted.Inc()
	}
}

// immaterial reports whether the handler's answer can't depend on the field.
// Unknown ones are material: the handler knows what to do with them.
func immaterial(f fastpath.Field) bool {
	switch len(f.Name) {
	case 3:
		return f.Is("dnt") || f.Is("via")
	case 6:
		return f.Is("accept") || f.Is("origin") || f.Is("cookie") || f.Is("pragma")
	case 7:
		return f.Is("referer")
	case 8:
		return f.Is("priority")
	case 9:
		return f.Is("save-data") || f.Is("forwarded")
	case 10:
		return f.Is("user-agent") || f.Is("keep-alive") || f.HasPrefix("sec-") || f.Is("tracestate")
	case 11:
		return f.Is("traceparent") || f.HasPrefix("sec-")
	case 13:
		return f.Is("cache-control") || f.HasPrefix("sec-")
	case 15:
		return f.Is("accept-encoding") || f.Is("accept-language") || f.Is("x-forwarded-for") || f.HasPrefix("sec-")
	}
	return f.HasPrefix("sec-") || f.HasPrefix("x-forwarded-")
}

// prepareHead takes the header fields from serveContent, without looking at bytes; Age,
// where the content has one, and Date are left open.
func prepareHead(prepare fastpath.Preparer, c *content, status string) *fastpath.Head {
	c.body = fastpath.Unseen{}
	handler := func(w http.ResponseWriter, r *http.Request) {
		commonHeader(w.Header())
		w.Header().Set("Cache-Status", status)
		if err := serveContent(w, r, c, &answer{}); err != nil {
			panic(fmt.Sprintf("a plain request: %v", err))
		}
	}
	return prepare(handler, func(f *fastpath.HeadField) {
		if f.Name == "Age" {
			f.Value, f.Open = "", true
		}
	}, fastpath.HeadField{Name: "Date", Open: true})
}

// httpDate is a Date field, which changes once a second.
type httpDate struct {
	second int64
	text   string
}

func (f *fast) dateAt(now time.Time) string {
	d := f.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &httpDate{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		f.date.Store(d)
	}
	return d.text
}
