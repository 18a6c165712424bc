package cmcd

import (
	"errors"
	"strings"
	"time"
)

const (
	// MaxBytes bounds a dictionary, in bytes after percent-decoding.
	MaxBytes = 2048
	// MaxKeys bounds the keys of a dictionary.
	MaxKeys = 64
	// maxBuffer bounds bl: no player keeps a day of video.
	maxBuffer = 24 * time.Hour
	// maxRate bounds br and mtp, in kbit/s: 1 Tbit/s.
	maxRate = 1_000_000_000
)

// Errors of Parse and ParseQuery.
var (
	// ErrSyntax: not a dictionary (RFC 8941), or not percent-encoded properly.
	ErrSyntax = errors.New("CMCD: not a dictionary of RFC 8941")
	// ErrValue: a key has a value that CTA-5004 doesn't allow, is in another's
	// header field, or the version is neither 1 nor 2.
	ErrValue = errors.New("CMCD: a value that its key can't have")
	// ErrSize: more than MaxBytes or MaxKeys.
	ErrSize = errors.New("CMCD: too long")
)

// Object is what kind of object a player asks for (key ot).
type Object uint8

// The objects of CTA-5004. Unsaid is the zero value.
const (
	Unsaid Object = iota
	Manifest
	Audio
	Video
	Muxed
	Init
	Caption
	TimedText
	Key
	Other
	// Objects is how many there are.
	Objects
)

var objects = [Objects]struct{ token, name string }{
	{"", "unsaid"}, {"m", "manifest"}, {"a", "audio"}, {"v", "video"}, {"av", "muxed"}, {"i", "init"}, {"c", "caption"}, {"tt", "timed_text"}, {"k", "key"}, {"o", "other"},
}

func (o Object) String() string {
	if o < Objects {
		return objects[o].name
	}
	return "invalid"
}

// Amount is a number a player may say. The zero value was not said.
type Amount struct {
	N    int64
	Said bool
}

// Report is what a player says with one request. Its zero value says nothing.
type Report struct {
	// Object asked for (ot).
	Object Object
	// Starved: playback stood still for want of data since the last request (bs).
	Starved bool
	// Startup: the object is needed at once, at the start, after seeking or after
	// playback stood still (su).
	Startup bool
	// Buffer is how much was buffered when the request was made, in milliseconds (bl).
	Buffer Amount
	// Throughput the player measured, in kbit/s (mtp).
	Throughput Amount
	// Bitrate the object is encoded with, in kbit/s (br).
	Bitrate Amount
}

// Shard is where a dictionary comes from, which says what keys it may hold.
type Shard uint8

const (
	// Query is the query argument, with any key.
	Query Shard = iota
	// ObjectField is CMCD-Object, RequestField CMCD-Request, StatusField
	// CMCD-Status, SessionField CMCD-Session.
	ObjectField
	RequestField
	StatusField
	SessionField
)

// argument begins the query's part for CMCD.
const argument = "CMCD="

// Cut finds the query argument: its undecoded value, and what is before and after
// it in rawQuery, without the '&' beside it.
func Cut(rawQuery string) (before, value, after string, found bool) {
	at := 0
	for {
		i := strings.Index(rawQuery[at:], argument)
		if i < 0 {
			return rawQuery, "", "", false
		}
		if at += i; at == 0 || rawQuery[at-1] == '&' {
			break
		}
		at += len(argument)
	}
	value, after, _ = strings.Cut(rawQuery[at+len(argument):], "&")
	return rawQuery[:max(0, at-1)], value, after, true
}

// ParseQuery adds what the argument's undecoded value says to r. With an error r
// is as it was.
func (r *Report) ParseQuery(value string) error {
	var b [MaxBytes]byte
	n := 0
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch c {
		case '+':
			c = ' ' // as forms are encoded, which URLSearchParams does
		case '%':
			if i+2 >= len(value) {
				return ErrSyntax
			}
			hi, lo := unhex(value[i+1]), unhex(value[i+2])
			if hi > 15 || lo > 15 {
				return ErrSyntax
			}
			c = hi<<4 | lo
			i += 2
		}
		if n == len(b) {
			return ErrSize
		}
		b[n] = c
		n++
	}
	return r.Parse(Query, b[:n])
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// Parse adds what a dictionary says to r: for a key that is there twice, the
// later value (RFC 8941 section 3.2). With an error r is as it was.
func (r *Report) Parse(from Shard, dictionary []byte) error {
	if len(dictionary) > MaxBytes {
		return ErrSize
	}
	out, p := *r, parser{dictionary}
	p.spaces()
	for n := 0; len(p.b) > 0; n++ {
		if n == MaxKeys {
			return ErrSize
		}
		key, ok := p.key()
		if !ok {
			return ErrSyntax
		}
		v := value{kind: kindBool, n: 1}
		if p.take('=') {
			if v, ok = p.value(); !ok {
				return ErrSyntax
			}
		}
		if !p.parameters() {
			return ErrSyntax
		}
		if !out.set(from, key, v) {
			return ErrValue
		}
		p.spaces()
		if len(p.b) == 0 {
			break
		}
		if !p.take(',') {
			return ErrSyntax
		}
		if p.spaces(); len(p.b) == 0 {
			return ErrSyntax // a comma at the end
		}
	}
	*r = out
	return nil
}

// set takes over one key's value; false when it can't have that.
func (r *Report) set(from Shard, key []byte, v value) bool {
	is := func(s Shard) bool { return from == Query || from == s }
	switch string(key) {
	case "ot":
		r.Object = Unsaid
		for o := Manifest; o < Objects; o++ {
			if string(v.token) == objects[o].token {
				r.Object = o
			}
		}
		return is(ObjectField) && v.kind == kindToken && r.Object != Unsaid
	case "bs":
		r.Starved = v.n == 1
		return is(StatusField) && v.kind == kindBool
	case "su":
		r.Startup = v.n == 1
		return is(RequestField) && v.kind == kindBool
	case "bl":
		return is(RequestField) && r.Buffer.set(v, int64(maxBuffer/time.Millisecond))
	case "mtp":
		return is(RequestField) && r.Throughput.set(v, maxRate)
	case "br":
		return is(ObjectField) && r.Bitrate.set(v, maxRate)
	case "v":
		return is(SessionField) && v.kind == kindInt && (v.n == 1 || v.n == 2)
	}
	return true
}

func (a *Amount) set(v value, most int64) bool {
	*a = Amount{v.n, true}
	return v.kind == kindInt && v.n >= 0 && v.n <= most
}
