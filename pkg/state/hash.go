package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// ID is the identity of a map's content inside one partition: two maps have the
// same ID if and only if they hold the same entries, whatever their histories.
// (Event nids are numbers of the partition, so IDs of two partitions say nothing
// about each other.) The empty map's ID is zero.
type ID [16]byte

// String returns the ID in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// id returns the content hash of a subtree, computing it on first use. Two
// goroutines may compute it at once; they store the same value.
func (nd *node) id() ID {
	if nd == nil {
		return ID{}
	}
	var id ID
	lo, hi := nd.lo.Load(), nd.hi.Load()
	if lo == 0 || hi == 0 {
		id = nd.hash()
		nd.lo.Store(binary.BigEndian.Uint64(id[:8]))
		nd.hi.Store(binary.BigEndian.Uint64(id[8:]))
		return id
	}
	binary.BigEndian.PutUint64(id[:8], lo)
	binary.BigEndian.PutUint64(id[8:], hi)
	return id
}

// hash is a Merkle hash: SHA-256 of the entries (page) or of the prefix and the
// children's hashes (inner), cut to 128 bits. Since the shape follows from the
// content, the hash does too.
func (nd *node) hash() ID {
	var stack [2048]byte
	b := stack[:0]
	if nd.in == nil {
		b = append(b, 'p')
		for i := range nd.page {
			e := &nd.page[i]
			b = binary.AppendUvarint(b, uint64(e.len))
			b = append(b, e.key()...)
			b = binary.BigEndian.AppendUint64(b, uint64(e.nid))
		}
	} else {
		b = append(b, 'i')
		b = binary.AppendUvarint(b, uint64(len(nd.in.prefix)))
		b = append(b, nd.in.prefix...)
		for _, w := range nd.in.bitmap {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		end := nd.in.end.id()
		b = append(b, end[:]...)
		for _, k := range nd.in.kids {
			id := k.id()
			b = append(b, id[:]...)
		}
	}
	sum := sha256.Sum256(b)
	return ID(sum[:16])
}

// same says whether two subtrees hold the same entries: the same node, or the same
// content hash.
func same(a, b *node) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || a.n != b.n || a.text != b.text {
		return false
	}
	return a.id() == b.id()
}
