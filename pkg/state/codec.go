package state

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unsafe"

	"hanse/pkg/packed"
)

// ErrCorrupt is wrapped by every error about stored state that cannot be read.
var ErrCorrupt = packed.ErrCorrupt

// The stored form of a list of entries (what differs between two snapshots):
//
//	byte      as package packed does it
//	byte      index into firstKeys: the key "before" the first one
//	uvarint   number of entries
//	then, in the order of keys, for each entry:
//	uvarint   bytes that the key shares with the key before
//	uvarint   bytes that follow, times 2, plus 1 if the entry is deleted
//	bytes     those
//	varint    nid minus the nid before (at first: minus the snapshot's sid); absent if deleted

// maxPayload bounds what a stored list may unpack to: 2^20 entries of the longest keys would be less.
const maxPayload = packed.MaxBytes

// firstKeys saves the usual types of one-entry lists. It is part of the stored
// format: only append to it.
var firstKeys = []string{
	"", "m.room.member\x00\x00@", "m.room.create\x00\x00", "m.room.power_levels\x00\x00", "m.room.join_rules\x00\x00",
	"m.room.history_visibility\x00\x00", "m.room.guest_access\x00\x00", "m.room.name\x00\x00", "m.room.topic\x00\x00",
	"m.room.avatar\x00\x00", "m.room.canonical_alias\x00\x00", "m.room.encryption\x00\x00", "m.room.pinned_events\x00\x00",
	"m.room.server_acl\x00\x00", "m.room.third_party_invite\x00\x00", "m.room.tombstone\x00\x00", "m.space.child\x00\x00!",
	"m.space.parent\x00\x00!", "m.room.member\x00\x00@irc_", "org.matrix.msc3401.call.member\x00\x00",
	"im.vector.modular.widgets\x00\x00", "m.policy.rule.user\x00\x00", "m.policy.rule.server\x00\x00",
}

func firstKeyFor(key string) int {
	best := 0
	for i, f := range firstKeys {
		if len(f) > len(firstKeys[best]) && strings.HasPrefix(key, f) {
			best = i
		}
	}
	return best
}

// encode returns the stored form of sorted entries; nid 0 stands for a deletion.
func encode(sid int64, es []entry) []byte {
	b := append(packed.Begin(16+len(es)*24), 0)
	prev := ""
	if len(es) > 0 {
		b[1] = byte(firstKeyFor(es[0].key()))
		prev = firstKeys[b[1]]
	}
	b = binary.AppendUvarint(b, uint64(len(es)))
	nid := sid
	for i := range es {
		key := es[i].key()
		p := commonPrefix(key, prev)
		b = binary.AppendUvarint(b, uint64(p))
		tail := uint64(len(key)-p) << 1
		if es[i].nid == 0 {
			tail |= 1
		}
		b = binary.AppendUvarint(b, tail)
		b = append(b, key[p:]...)
		if es[i].nid != 0 {
			b = binary.AppendVarint(b, es[i].nid-nid)
			nid = es[i].nid
		}
		prev = key
	}
	return packed.Pack(b)
}

// decode is the inverse of encode. All keys share one allocation.
func decode(sid int64, b []byte) ([]entry, error) {
	b, err := packed.Unpack(b)
	if err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	return decodePlain(sid, b)
}

func decodePlain(sid int64, b []byte) ([]entry, error) {
	if len(b) == 0 || int(b[0]) >= len(firstKeys) {
		return nil, fmt.Errorf("%w: first key", ErrCorrupt)
	}
	prev := []byte(firstKeys[b[0]])
	r := packed.NewReader(b[1:])
	count := r.Uvarint()
	if count > uint64(r.Left()) { // an entry takes two bytes at least
		return nil, fmt.Errorf("%w: %d entries in %d bytes", ErrCorrupt, count, r.Left())
	}
	type cut struct {
		end int
		nid int64
	}
	cuts := make([]cut, 0, count)
	arena := make([]byte, 0, min(uint64(len(b))*2, maxPayload))
	nid := sid
	for range count {
		p, tail := r.Uvarint(), r.Uvarint()
		if p > uint64(len(prev)) || len(arena) > maxPayload {
			return nil, fmt.Errorf("%w: shared prefix", ErrCorrupt)
		}
		start := len(arena)
		arena = append(arena, prev[:p]...)
		arena = append(arena, r.Take(tail>>1)...)
		prev = arena[start:]
		c := cut{end: len(arena)}
		if tail&1 == 0 {
			nid += r.Varint()
			if nid == 0 {
				return nil, fmt.Errorf("%w: nid 0", ErrCorrupt)
			}
			c.nid = nid
		}
		cuts = append(cuts, c)
	}
	if err := r.Done(); err != nil {
		return nil, err
	}
	if cap(arena) > len(arena)+len(arena)/8 {
		arena = append(make([]byte, 0, len(arena)), arena...) // it will live long
	}
	// The arena is not written any more: its parts may become strings.
	text := unsafe.String(unsafe.SliceData(arena), len(arena))
	es := make([]entry, len(cuts))
	start := 0
	for i, c := range cuts {
		key := text[start:c.end]
		if !validKey(key) || i > 0 && es[i-1].key() >= key {
			return nil, fmt.Errorf("%w: key %q", ErrCorrupt, key)
		}
		es[i] = newEntry(key, c.nid)
		start = c.end
	}
	return es, nil
}

// difference returns, sorted, what must be set to make b of a, or nil and false if
// that is more than limit entries.
func difference(a, b Map, limit int) ([]entry, bool) {
	if a.root == nil {
		if b.Len() > limit {
			return nil, false
		}
		return b.root.appendTo(make([]entry, 0, b.Len())), true
	}
	var es []entry
	ok := true
	diffMaps([]Map{a, b}, func(key string, nids []int64) bool {
		if ok = len(es) < limit; ok {
			es = append(es, newEntry(key, nids[1]))
		}
		return ok
	})
	return es, ok
}
