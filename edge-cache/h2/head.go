package h2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// head is the header block being read, of a request or of trailers.
type head struct {
	open   bool   // more of it is to come
	id     uint32 // of the stream
	end    bool   // END_STREAM
	bytes  int    // of the block so far
	frames int

	method, scheme, path, authority string
	// fields are those that aren't pseudo-headers, in order.
	fields  []hpack.HeaderField
	host    string
	pseudo  int   // how many there are
	length  int64 // Content-Length; -1: none
	size    int
	most    int    // size may be
	wrong   string // why the request is malformed (RFC 9113 section 8.1.1); "": it isn't
	urgency uint8
}

// maxFields bounds the fields of a request.
const maxFields = 200

// begin makes room for a block.
func (h *head) begin(id uint32, end bool, most int) {
	clear(h.fields)
	*h = head{open: true, id: id, end: end, fields: h.fields[:0], length: -1, most: most, urgency: defaultUrgency}
}

// large reports whether the head is larger than allowed.
func (h *head) large() bool { return h.size > h.most || len(h.fields) > maxFields }

// bad notes the first reason why the request is malformed.
func (h *head) bad(why string) {
	if h.wrong == "" {
		h.wrong = why
	}
}

// add takes a field (RFC 9113 sections 8.2 and 8.3).
func (h *head) add(f hpack.HeaderField) {
	h.size += int(f.Size())
	if h.large() {
		return
	}
	if !validValue(f.Value) {
		h.bad("value of " + f.Name)
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		h.addPseudo(f)
		return
	}
	if !validName(f.Name) {
		h.bad("field name")
		return
	}
	switch f.Name {
	case "te":
		if f.Value != "trailers" {
			h.bad("te")
		}
	case "host":
		if h.host != "" && h.host != f.Value {
			h.bad("two hosts")
		}
		h.host = f.Value
		return
	case "content-length":
		n, err := strconv.ParseUint(f.Value, 10, 63)
		if err != nil || h.length >= 0 && h.length != int64(n) || f.Value[0] == '+' {
			h.bad("content-length")
			return
		}
		h.length = int64(n)
	case "priority":
		h.urgency = urgencyOf(f.Value)
	default:
		if aboutConnection(f.Name) {
			h.bad(f.Name)
			return
		}
	}
	h.fields = append(h.fields, f)
}

func (h *head) addPseudo(f hpack.HeaderField) {
	h.pseudo++
	if len(h.fields) > 0 || h.host != "" {
		h.bad("a pseudo-header behind a field")
	}
	var to *string
	switch f.Name {
	case ":method":
		to = &h.method
	case ":scheme":
		to = &h.scheme
	case ":path":
		to = &h.path
	case ":authority":
		to = &h.authority
	default:
		h.bad("an unknown pseudo-header")
		return
	}
	if *to != "" || f.Value == "" && f.Name != ":authority" {
		h.bad(f.Name)
	}
	*to = f.Value
}

// check looks at the whole of a request's head.
func (h *head) check() {
	switch {
	case h.method == "CONNECT":
		if h.pseudo != 2 || h.authority == "" {
			h.bad("CONNECT")
		}
	case h.method == "" || h.scheme == "" || h.path == "":
		h.bad("a pseudo-header is missing")
	case h.path[0] != '/' && (h.path != "*" || h.method != "OPTIONS"):
		h.bad(":path")
	case !validName(strings.ToLower(h.method)):
		h.bad(":method")
	}
	// RFC 9113 section 8.3.1: both name the same.
	if h.host != "" && h.authority != "" && !strings.EqualFold(h.host, h.authority) {
		h.bad("host")
	}
	if h.authority == "" {
		h.authority = h.host
	}
	if h.authority != "" && !httpguts.ValidHostHeader(h.authority) {
		h.bad(":authority")
	}
	if h.end && h.length > 0 {
		h.bad("content-length of no content")
	}
}

// validName reports whether a field name is a token without capital letters.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return s != ""
}

// validValue: RFC 9113 section 8.2.1, and no control characters, as HTTP/1.1 has it.
func validValue(s string) bool {
	if s != "" && (isSpace(s[0]) || isSpace(s[len(s)-1])) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// urgencyOf reads a priority (RFC 9218 section 4.1) as far as it is one; bodies of
// the same urgency take turns whether they are said to be incremental or not.
func urgencyOf(s string) uint8 {
	for member := range strings.SplitSeq(s, ",") {
		member = strings.Trim(member, " \t")
		if len(member) == 3 && strings.HasPrefix(member, "u=") && member[2] >= '0' && member[2] <= '7' {
			return member[2] - '0'
		}
	}
	return defaultUrgency
}

// fuss bounds the frames that bring nothing (RFC 9113 section 10.5): each costs
// something, which time and the bytes a client takes pay for.
type fuss struct {
	spent int64
	paid  int64 // unix milliseconds up to which time has paid
}

const (
	maxFuss       = 2000
	fussPerSecond = 200
	// earnedPer is how many bytes of bodies pay for one.
	earnedPer = 1 << 10
	// A request withdrawn while it was being answered costs more than other frames.
	fussReset = 10
)

// spend adds to what the client has cost.
func (c *conn) spend(n int64, now int64) error {
	f := &c.fuss
	if f.spent += n; f.spent <= maxFuss {
		return nil
	}
	f.spent -= min(f.spent, (now-f.paid)*fussPerSecond/1000)
	f.paid = now
	f.spent -= min(f.spent, c.earned.Swap(0)/earnedPer)
	if f.spent > maxFuss {
		return fault{http2.ErrCodeEnhanceYourCalm, "frames that bring nothing"}
	}
	return nil
}
