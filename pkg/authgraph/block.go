package authgraph

import (
	"encoding/binary"
	"fmt"
	"math"

	"hanse/pkg/packed"
	"hanse/pkg/state"
)

// ErrCorrupt is wrapped by every error about a stored block that cannot be read.
var ErrCorrupt = packed.ErrCorrupt

// maxBlockText bounds the keys of one block: 4096 of the longest that events can have are less.
const maxBlockText = 4 << 20

// The stored form of a run of events, packed; columns, so that what resembles each other stands side by side:
//
//	uvarint   number of events
//	uvarint   for each: its numeric id minus that of the event before (of the block before, for the first)
//	uvarint   for each: the number of its key plus one, 0 for one that no event before has
//	for each new key, in the order of events:
//	  uvarint   0 if the type is that of the new key before, or its length plus one and then its bytes
//	  uvarint   how many bytes the state key shares with that of the new key before
//	  uvarint   how many bytes follow, and those
//	uvarint   for each event: how many it cites
//	varint    for each citation: the index minus that of the citation at the same place of the event before
//
// The last column is nearly all zeros: events of a time cite the same create, power levels and join rules events.

// encodeBlock returns the stored form of the events [from, to).
func (g *Graph) encodeBlock(from, to Index) []byte {
	known := KeyIndex(0) // how many keys the events before have
	for _, k := range g.key[:from] {
		known = max(known, k+1)
	}
	b := packed.Begin(int(to-from) * 16)
	b = binary.AppendUvarint(b, uint64(to-from))
	nid := int64(0)
	if from > 0 {
		nid = g.nids[from-1]
	}
	for _, n := range g.nids[from:to] {
		b = binary.AppendUvarint(b, uint64(n-nid))
		nid = n
	}
	fresh := known
	for _, k := range g.key[from:to] {
		if k == fresh {
			b = append(b, 0)
			fresh++
			continue
		}
		b = binary.AppendUvarint(b, uint64(k)+1)
	}
	b = appendKeys(b, g.keys[known:fresh])
	for i := from; i < to; i++ {
		b = binary.AppendUvarint(b, uint64(len(g.Auth(i))))
	}
	var before []Index
	for i := from; i < to; i++ {
		auth := g.Auth(i)
		for j, a := range auth {
			b = binary.AppendVarint(b, int64(a)-at(before, j))
		}
		before = auth
	}
	return packed.Pack(b)
}

func at(cites []Index, j int) int64 {
	if j < len(cites) {
		return int64(cites[j])
	}
	return 0
}

func appendKeys(b []byte, keys []state.Key) []byte {
	var last state.Key
	for _, k := range keys {
		if k.Type == last.Type {
			b = append(b, 0)
		} else {
			b = binary.AppendUvarint(b, uint64(len(k.Type))+1)
			b = append(b, k.Type...)
		}
		p := 0
		for p < len(k.StateKey) && p < len(last.StateKey) && k.StateKey[p] == last.StateKey[p] {
			p++
		}
		b = binary.AppendUvarint(b, uint64(p))
		b = binary.AppendUvarint(b, uint64(len(k.StateKey)-p))
		b = append(b, k.StateKey[p:]...)
		last = k
	}
	return b
}

// addBlock adds the n events of a stored block. After an error the graph is of no use.
func (g *Graph) addBlock(data []byte, n int) error {
	data, err := packed.Unpack(data)
	if err != nil {
		return fmt.Errorf("block: %w", err)
	}
	r := packed.NewReader(data)
	if count := r.Uvarint(); count != uint64(n) || r.Left() < n {
		return fmt.Errorf("%w: a block of %d events", ErrCorrupt, count)
	}
	nids, err := g.readNIDs(r, n)
	if err != nil {
		return err
	}
	keys, err := g.readKeys(r, n)
	if err != nil {
		return err
	}
	counts := make([]uint64, n)
	for i := range counts {
		counts[i] = r.Uvarint()
	}
	g.grow(n)
	var before []Index
	for i := range n {
		from := len(g.cites)
		if counts[i] > uint64(r.Left()) {
			return fmt.Errorf("%w: %d citations", ErrCorrupt, counts[i])
		}
		for j := range int(counts[i]) {
			a := at(before, j) + r.Varint()
			if a < 0 || a >= int64(len(g.nids)) || !g.cite(from, Index(a)) {
				return fmt.Errorf("%w: citation of %d", ErrCorrupt, a)
			}
		}
		before = g.cites[from:]
		g.close(nids[i], keys[i])
	}
	return r.Done()
}

func (g *Graph) readNIDs(r *packed.Reader, n int) ([]int64, error) {
	nids := make([]int64, n)
	nid := g.Last()
	for i := range nids {
		more := r.Uvarint()
		if more == 0 || more > uint64(math.MaxInt64-nid) {
			return nil, fmt.Errorf("%w: numeric id", ErrCorrupt)
		}
		nid += int64(more)
		nids[i] = nid
	}
	return nids, nil
}

func (g *Graph) readKeys(r *packed.Reader, n int) ([]KeyIndex, error) {
	keys := make([]KeyIndex, n)
	fresh := uint64(len(g.keys))
	for i := range keys {
		k := r.Uvarint()
		if k == 0 {
			fresh++
			k = fresh
		}
		if k > fresh {
			return nil, fmt.Errorf("%w: key %d", ErrCorrupt, k)
		}
		keys[i] = KeyIndex(k - 1)
	}
	var last state.Key
	text := g.text
	for uint64(len(g.keys)) < fresh {
		k := state.Key{Type: last.Type}
		if size := r.Uvarint(); size > 0 {
			k.Type = string(r.Take(size - 1))
		}
		p := r.Uvarint()
		tail := r.Take(r.Uvarint())
		if p > uint64(len(last.StateKey)) {
			return nil, fmt.Errorf("%w: shared prefix", ErrCorrupt)
		}
		k.StateKey = last.StateKey[:p] + string(tail)
		if _, ok := g.FindKey(k); ok || g.text-text > maxBlockText {
			return nil, fmt.Errorf("%w: key %q", ErrCorrupt, k.Type)
		}
		g.intern(k)
		last = k
	}
	return keys, nil
}
