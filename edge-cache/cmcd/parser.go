package cmcd

import "strings"

type valueKind uint8

const (
	kindOther valueKind = iota // strings, decimals, lists without a whole number
	kindInt
	kindBool
	kindToken
)

// value is an item as far as it is read. Of an inner list, which version 2 makes
// of numbers, it is the first item.
type value struct {
	kind  valueKind
	n     int64 // of kindInt, and 1 or 0 of kindBool
	token []byte
}

// parser reads the dictionaries of RFC 8941 section 4.2, whose keys may have
// capital letters here, as those of CTA-5004's own examples. b is the rest.
type parser struct{ b []byte }

func (p *parser) take(c byte) bool {
	if len(p.b) == 0 || p.b[0] != c {
		return false
	}
	p.b = p.b[1:]
	return true
}

func (p *parser) spaces() {
	for len(p.b) > 0 && (p.b[0] == ' ' || p.b[0] == '\t') {
		p.b = p.b[1:]
	}
}

// while takes the bytes that f accepts.
func (p *parser) while(f func(byte) bool) []byte {
	n := 0
	for n < len(p.b) && f(p.b[n]) {
		n++
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) key() ([]byte, bool) {
	if len(p.b) == 0 || !letter(p.b[0]) && p.b[0] != '*' {
		return nil, false
	}
	return p.while(func(c byte) bool { return letter(c) || digit(c) || c == '_' || c == '-' || c == '.' || c == '*' }), true
}

func (p *parser) value() (value, bool) {
	if !p.take('(') {
		return p.item()
	}
	var first value
	for n := 0; ; n++ {
		spaced := len(p.b) > 0 && p.b[0] == ' '
		for p.take(' ') {
		}
		if p.take(')') {
			return first, true
		}
		if n > 0 && !spaced {
			return value{}, false
		}
		v, ok := p.item()
		if !ok || !p.parameters() {
			return value{}, false
		}
		if n == 0 && v.kind == kindInt {
			first = v
		}
	}
}

// parameters skips ";key=value" (RFC 8941 section 4.2.3.2).
func (p *parser) parameters() bool {
	for p.take(';') {
		for p.take(' ') {
		}
		if _, ok := p.key(); !ok {
			return false
		}
		if p.take('=') {
			if _, ok := p.item(); !ok {
				return false
			}
		}
	}
	return true
}

// item reads a bare item: a number, string, token, byte sequence or boolean.
func (p *parser) item() (value, bool) {
	if len(p.b) == 0 {
		return value{}, false
	}
	switch c := p.b[0]; {
	case c == '-' || digit(c):
		return p.number()
	case c == '"':
		return value{}, p.text()
	case c == '?':
		if len(p.b) < 2 || p.b[1] != '0' && p.b[1] != '1' {
			return value{}, false
		}
		v := value{kind: kindBool, n: int64(p.b[1] - '0')}
		p.b = p.b[2:]
		return v, true
	case c == ':':
		p.b = p.b[1:]
		p.while(func(c byte) bool { return letter(c) || digit(c) || c == '+' || c == '/' || c == '=' })
		return value{}, p.take(':')
	case letter(c) || c == '*':
		return value{kind: kindToken, token: p.while(func(c byte) bool {
			return letter(c) || digit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
		})}, true
	}
	return value{}, false
}

// number reads an integer of up to 15 digits or a decimal of up to 12 and 3
// (RFC 8941 section 4.2.4).
func (p *parser) number() (value, bool) {
	v, negative := value{kind: kindInt}, p.take('-')
	whole := p.while(digit)
	if len(whole) == 0 || len(whole) > 15 {
		return value{}, false
	}
	if p.take('.') {
		if part := p.while(digit); len(part) == 0 || len(part) > 3 || len(whole) > 12 {
			return value{}, false
		}
		return value{}, true
	}
	for _, c := range whole {
		v.n = 10*v.n + int64(c-'0')
	}
	if negative {
		v.n = -v.n
	}
	return v, true
}

func (p *parser) text() bool {
	for i := 1; i < len(p.b); i++ {
		switch c := p.b[i]; {
		case c == '"':
			p.b = p.b[i+1:]
			return true
		case c == '\\':
			if i++; i >= len(p.b) || p.b[i] != '"' && p.b[i] != '\\' {
				return false
			}
		case c < ' ' || c > '~':
			return false
		}
	}
	return false
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func digit(c byte) bool { return c >= '0' && c <= '9' }
