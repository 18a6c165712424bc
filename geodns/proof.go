package geodns

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// proofLasts is how long an address counts as proved after it asked over TCP.
	proofLasts = time.Hour
	proofBits  = 13
)

// proofs remembers addresses that have asked over TCP, which nobody does with an
// address that isn't theirs: resolvers that send no cookies get large answers over
// UDP after that. Addresses that share a place by chance take turns. Safe for
// concurrent use, and it never allocates.
type proofs struct {
	seed maphash.Seed
	// Half of the address's hash, and the Unix time it was proved.
	places [1 << proofBits]atomic.Uint64
}

func newProofs() *proofs { return &proofs{seed: maphash.MakeSeed()} }

func (p *proofs) place(a netip.Addr) (*atomic.Uint64, uint32) {
	b := a.As16()
	h := maphash.Bytes(p.seed, b[:])
	return &p.places[h&(1<<proofBits-1)], uint32(h >> 32)
}

// add notes that the address asked over TCP.
func (p *proofs) add(a netip.Addr, now time.Time) {
	place, half := p.place(a)
	place.Store(uint64(half)<<32 | uint64(uint32(now.Unix())))
}

// has reports whether the address asked over TCP lately.
func (p *proofs) has(a netip.Addr, now time.Time) bool {
	place, half := p.place(a)
	v := place.Load()
	age := int32(uint32(now.Unix()) - uint32(v)) // serial number arithmetic
	return v != 0 && uint32(v>>32) == half && age >= 0 && age < int32(proofLasts/time.Second)
}
