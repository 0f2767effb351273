package authgraph

import (
	"hash/maphash"

	"hanse/pkg/state"
)

// keyTable numbers the keys of a graph. It takes 4 to 11 bytes a key beside the keys themselves, of which a map would hold
// a second copy.
type keyTable struct {
	keys  []state.Key
	text  int // bytes of keys
	types map[string]string
	seed  maphash.Seed // keys are chosen by strangers
	slots []uint32     // number of a key plus one, at its hash or the next free place behind; a power of two of them
}

func newKeyTable() keyTable {
	return keyTable{types: make(map[string]string), seed: maphash.MakeSeed(), slots: make([]uint32, 8)}
}

// find returns the slot of a key, or where it would be.
func (t *keyTable) find(k state.Key) (slot uint64, ok bool) {
	mask := uint64(len(t.slots) - 1)
	for slot = maphash.Comparable(t.seed, k) & mask; t.slots[slot] != 0; slot = (slot + 1) & mask {
		if t.keys[t.slots[slot]-1] == k {
			return slot, true
		}
	}
	return slot, false
}

// intern returns the number of a key, a new one if it has none.
func (t *keyTable) intern(k state.Key) KeyIndex {
	slot, ok := t.find(k)
	if ok {
		return KeyIndex(t.slots[slot] - 1)
	}
	typ, ok := t.types[k.Type]
	if !ok {
		typ = k.Type
		t.types[typ] = typ
	}
	k.Type = typ // one copy for all
	t.text += len(k.StateKey)
	t.keys = append(t.keys, k)
	t.slots[slot] = uint32(len(t.keys))
	if len(t.keys)*4 > len(t.slots)*3 {
		t.rehash()
	}
	return KeyIndex(len(t.keys) - 1)
}

func (t *keyTable) rehash() {
	t.slots = make([]uint32, 2*len(t.slots))
	for i, k := range t.keys {
		slot, _ := t.find(k)
		t.slots[slot] = uint32(i) + 1
	}
}

// bytes estimates the memory that the table holds: a text has some overhead of its own.
func (t *keyTable) bytes() int { return cap(t.keys)*40 + t.text + len(t.slots)*4 + len(t.types)*100 }
