package geodns

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
)

const (
	serverCookieLen = 16
	// A server cookie is good for an hour, and for five minutes from the future
	// (RFC 9018, 4.3).
	cookieOld, cookieEarly = 3600, 300
)

// cookies makes and checks server cookies (RFC 7873) in the form of RFC 9018, 4:
// version, reserved, time, and eight octets of a code over these, the client's
// cookie and its address. The code is AES-CBC-MAC of two blocks, always two. The
// key lives as long as the process: an address is one router's, so none is shared.
type cookies struct{ block cipher.Block }

func newCookies() (*cookies, error) {
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(key[:])
	return &cookies{b}, err
}

// code fills server[8:16] from the rest. scratch keeps it from allocating.
func (c *cookies) code(client *[cookieLen]byte, addr netip.Addr, server []byte, scratch *[16]byte) {
	copy(scratch[:8], client[:])
	copy(scratch[8:], server[:8])
	c.block.Encrypt(scratch[:], scratch[:])
	a := addr.As16()
	subtle.XORBytes(scratch[:], scratch[:], a[:])
	c.block.Encrypt(scratch[:], scratch[:])
	copy(server[8:16], scratch[:8])
}

// put appends the client's cookie and a new server cookie to an answer.
func (c *cookies) put(out []byte, client *[cookieLen]byte, addr netip.Addr, now int64, scratch *[16]byte) []byte {
	out = append(out, client[:]...)
	at := len(out)
	out = append(out, 1, 0, 0, 0)
	out = binary.BigEndian.AppendUint32(out, uint32(now))
	out = append(out, 0, 0, 0, 0, 0, 0, 0, 0)
	c.code(client, addr, out[at:at+serverCookieLen], scratch)
	return out
}

// good reports whether a query's server cookie is one of ours, for its address.
func (c *cookies) good(q *request, addr netip.Addr, now int64, scratch *[16]byte, want *[serverCookieLen]byte) bool {
	if !q.hasCookie || q.serverLen != serverCookieLen || q.server[0] != 1 {
		return false
	}
	// Serial number arithmetic: the time wraps (RFC 9018, 4.3).
	age := int32(uint32(now) - binary.BigEndian.Uint32(q.server[4:]))
	if age > cookieOld || age < -cookieEarly {
		return false
	}
	copy(want[:8], q.server[:8])
	c.code(&q.client, addr, want[:], scratch)
	return subtle.ConstantTimeCompare(want[8:], q.server[8:16]) == 1
}
