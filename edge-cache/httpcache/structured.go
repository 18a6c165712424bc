package httpcache

import "strings"

// parseTargeted reads a targeted field, a dictionary of structured fields (RFC
// 9213 section 2.1, RFC 8941). False: it is empty, isn't one, or a directive has
// a value of another type than it must; then the field doesn't count.
func parseTargeted(s string) (directives, bool) {
	d := noDirectives()
	p := &sfParser{s: strings.Trim(s, " ")}
	if p.s == "" {
		return d, false
	}
	members := map[string]sfValue{}
	for {
		key, ok := p.key()
		if !ok {
			return d, false
		}
		value := sfValue{kind: sfBoolean, text: "1"}
		if p.take('=') {
			if value, ok = p.value(); !ok {
				return d, false
			}
		}
		if !p.parameters() {
			return d, false
		}
		members[key] = value
		p.spaces()
		if p.s == "" {
			break
		}
		if !p.take(',') {
			return d, false
		}
		if p.spaces(); p.s == "" {
			return d, false // a comma at the end
		}
	}
	for key, v := range members {
		switch key {
		case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
			if v.kind != sfInteger || strings.HasPrefix(v.text, "-") {
				return noDirectives(), false
			}
			d.set(key, v.text)
		case "no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "must-understand", "no-transform":
			switch {
			case v.kind == sfBoolean && v.text == "1":
				d.set(key, "")
			case v.kind == sfBoolean:
			case v.kind == sfString && (key == "private" || key == "no-cache"):
				d.set(key, v.text)
			default:
				return noDirectives(), false
			}
		}
	}
	return d, true
}

type sfKind int

const (
	sfInteger sfKind = iota
	sfDecimal
	sfString
	sfToken
	sfBytes
	sfBoolean
	sfList
)

type sfValue struct {
	kind sfKind
	text string
}

// sfParser parses structured fields (RFC 8941 section 4.2).
type sfParser struct{ s string }

func (p *sfParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

func (p *sfParser) spaces() { p.s = strings.TrimLeft(p.s, " \t") }

// while takes the bytes f holds for.
func (p *sfParser) while(f func(byte) bool) string {
	i := 0
	for i < len(p.s) && f(p.s[i]) {
		i++
	}
	out := p.s[:i]
	p.s = p.s[i:]
	return out
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool { return c >= '0' && c <= '9' }
func alpha(c byte) bool { return lower(c) || c >= 'A' && c <= 'Z' }

func (p *sfParser) key() (string, bool) {
	if p.s == "" || !lower(p.s[0]) && p.s[0] != '*' {
		return "", false
	}
	return p.while(func(c byte) bool {
		return lower(c) || digit(c) || c == '_' || c == '-' || c == '.' || c == '*'
	}), true
}

func (p *sfParser) parameters() bool {
	for p.take(';') {
		p.s = strings.TrimLeft(p.s, " ")
		if _, ok := p.key(); !ok {
			return false
		}
		if p.take('=') {
			if _, ok := p.bare(); !ok {
				return false
			}
		}
	}
	return true
}

func (p *sfParser) value() (sfValue, bool) {
	if !p.take('(') {
		return p.bare()
	}
	for {
		p.s = strings.TrimLeft(p.s, " ")
		if p.take(')') {
			return sfValue{kind: sfList}, true
		}
		if _, ok := p.bare(); !ok || !p.parameters() {
			return sfValue{}, false
		}
		if p.s == "" || p.s[0] != ' ' && p.s[0] != ')' {
			return sfValue{}, false
		}
	}
}

func (p *sfParser) bare() (sfValue, bool) {
	if p.s == "" {
		return sfValue{}, false
	}
	switch c := p.s[0]; {
	case c == '-' || digit(c):
		return p.number()
	case c == '"':
		return p.str()
	case c == '*' || alpha(c):
		return sfValue{sfToken, p.while(func(c byte) bool {
			return alpha(c) || digit(c) || strings.IndexByte(":/!#$%&'*+-.^_`|~", c) >= 0
		})}, true
	case c == ':':
		end := strings.IndexByte(p.s[1:], ':')
		if end < 0 {
			return sfValue{}, false
		}
		v := p.s[1 : end+1]
		p.s = p.s[end+2:]
		for i := range len(v) {
			if !alpha(v[i]) && !digit(v[i]) && strings.IndexByte("+/=", v[i]) < 0 {
				return sfValue{}, false
			}
		}
		return sfValue{sfBytes, v}, true
	case c == '?':
		p.s = p.s[1:]
		if p.take('1') {
			return sfValue{sfBoolean, "1"}, true
		}
		return sfValue{sfBoolean, "0"}, p.take('0')
	}
	return sfValue{}, false
}

func (p *sfParser) number() (sfValue, bool) {
	sign := ""
	if p.take('-') {
		sign = "-"
	}
	whole := p.while(digit)
	if whole == "" || len(whole) > 15 {
		return sfValue{}, false
	}
	if !p.take('.') {
		return sfValue{sfInteger, sign + whole}, true
	}
	part := p.while(digit)
	return sfValue{sfDecimal, sign + whole + "." + part}, len(whole) <= 12 && len(part) >= 1 && len(part) <= 3
}

func (p *sfParser) str() (sfValue, bool) {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return sfValue{sfString, b.String()}, true
		case c == '\\':
			if i++; i >= len(p.s) || p.s[i] != '"' && p.s[i] != '\\' {
				return sfValue{}, false
			}
			b.WriteByte(p.s[i])
		case c < 0x20 || c >= 0x7f:
			return sfValue{}, false
		default:
			b.WriteByte(c)
		}
	}
	return sfValue{}, false
}
