package geodns

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/dns"
)

const (
	// Signatures are good from an hour ago, for clocks that are late, and for a
	// week; they are made anew after a day.
	signedBefore = 3600
	signedFor    = 7 * 24 * 3600
	signedAnew   = 24 * 3600
	// keptSignatures bounds the signatures remembered: snapshots change often,
	// the sets they lead to are few.
	keptSignatures = 4096
	// typeNXName in an NSEC record says that the name doesn't exist (RFC 9824, 2).
	typeNXName = 128
)

// signer signs sets as they are asked for (RFC 4034, 4035) with one ECDSA P-256
// key (RFC 6605), which all routers of a zone share. Safe for concurrent use.
type signer struct {
	key  *dns.DNSKEY
	priv *ecdsa.PrivateKey

	mu   sync.Mutex
	kept map[[sha256.Size]byte]*dns.RRSIG
}

var errKey = errors.New("want a P-256 private key in PEM (PKCS #8), as `meridian geodns key` makes")

// newSigner parses a key in PEM.
func newSigner(zone, key string) (*signer, error) {
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		return nil, errKey
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	priv, ok := k.(*ecdsa.PrivateKey)
	if !ok || priv.Curve != elliptic.P256() {
		return nil, errKey
	}
	public, err := priv.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	zone = dns.CanonicalName(zone)
	return &signer{priv: priv, kept: map[[sha256.Size]byte]*dns.RRSIG{}, key: &dns.DNSKEY{
		Hdr: header(zone, dns.TypeDNSKEY, ttlFixed), Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
		PublicKey: base64.StdEncoding.EncodeToString(public[1:]), // without the octet that says "uncompressed"
	}}, nil
}

// newKey makes a key as newSigner reads it.
func newKey() (string, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})), nil
}

// published are the records that tell parents and validators of the key (RFC 7344).
func (s *signer) published(zone string) []dns.RR {
	cdnskey := &dns.CDNSKEY{DNSKEY: *s.key}
	cdnskey.Hdr.Rrtype = dns.TypeCDNSKEY
	cds := s.key.ToDS(dns.SHA256).ToCDS()
	cds.Hdr = header(zone, dns.TypeCDS, ttlFixed)
	return []dns.RR{s.key, cdnskey, cds}
}

// nsec says which types a name has, and that nothing lies between it and the
// smallest name behind it (RFC 4470, RFC 9824).
func (s *signer) nsec(name string, types []uint16) (dns.RR, error) {
	bitmap := append(slices.Clone(types), dns.TypeRRSIG, dns.TypeNSEC)
	slices.Sort(bitmap)
	next, err := successor(name, s.key.Hdr.Name)
	if err != nil {
		return nil, err
	}
	return &dns.NSEC{Hdr: header(name, dns.TypeNSEC, ttlChosen), NextDomain: next, TypeBitMap: slices.Compact(bitmap)}, nil
}

// successor is the smallest name behind one of a zone in canonical order (RFC 4034,
// 6.1): its first child, where there is room for one (RFC 4471, 3.1.2).
func successor(name, zone string) (string, error) {
	w, err := wireName(name)
	if err != nil {
		return "", err
	}
	z, err := wireName(zone)
	if err != nil {
		return "", err
	}
	if len(w)+2 <= maxName {
		return `\000.` + dns.CanonicalName(name), nil
	}
	if w[0] < maxLabel && len(w) < maxName {
		w = slices.Insert(w, 1+int(w[0]), 0)
		w[0]++
	} else {
		w = behind(w, z)
	}
	next, _, err := dns.UnpackDomainName(w, 0)
	return next, err
}

// behind is the smallest name behind another and all below it; the zone's own, which
// the order begins with, behind the last. It works in w.
func behind(w, zone []byte) []byte {
	for len(w) > len(zone) {
		label, above := w[1:1+int(w[0])], w[1+int(w[0]):]
		label = bytes.TrimRight(label, "\xff")
		if len(label) == 0 {
			w = above
			continue
		}
		last := &label[len(label)-1]
		if *last++; *last == 'A' { // no capitals in canonical names
			*last = 'Z' + 1
		}
		return slices.Concat([]byte{byte(len(label))}, label, above)
	}
	return zone
}

// sign returns the records of a section with a signature behind each set, and
// when to sign anew.
func (s *signer) sign(section []dns.RR, now int64) ([]dns.RR, int64, error) {
	var out []dns.RR
	until := now + signedAnew
	for start := 0; start < len(section); {
		end := start + 1
		for end < len(section) && sameSet(section[start], section[end]) {
			end++
		}
		sig, err := s.signature(section[start:end], now)
		if err != nil {
			return nil, 0, err
		}
		out = append(append(out, section[start:end]...), sig)
		until = min(until, int64(sig.Inception)+signedBefore+signedAnew)
		start = end
	}
	return out, until, nil
}

func sameSet(a, b dns.RR) bool {
	return a.Header().Rrtype == b.Header().Rrtype && a.Header().Name == b.Header().Name
}

func (s *signer) signature(set []dns.RR, now int64) (*dns.RRSIG, error) {
	h := sha256.New()
	for _, rr := range set {
		_, _ = h.Write([]byte(rr.String() + "\n")) // a hash never fails
	}
	id := [sha256.Size]byte(h.Sum(nil))
	s.mu.Lock()
	sig := s.kept[id]
	s.mu.Unlock()
	if sig != nil && int64(sig.Inception)+signedBefore+signedAnew > now {
		return sig, nil
	}
	sig = &dns.RRSIG{Hdr: dns.RR_Header{Ttl: set[0].Header().Ttl}, Algorithm: s.key.Algorithm, KeyTag: s.key.KeyTag(),
		SignerName: s.key.Hdr.Name, Inception: uint32(now - signedBefore), Expiration: uint32(now + signedFor)}
	if err := sig.Sign(s.priv, set); err != nil {
		return nil, fmt.Errorf("sign %s: %w", set[0].Header().Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= keptSignatures {
		clear(s.kept)
	}
	s.kept[id] = sig
	return sig, nil
}
