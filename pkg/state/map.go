package state

import (
	"iter"
	"slices"
	"strings"
	"unsafe"
)

// Map is an immutable ordered map from Key to the nid of an event. The zero value
// is the empty map. A Map is one pointer: copy it freely, use it from any number of
// goroutines. Maps made from one another share all that they have in common.
type Map struct{ root *node }

// Entry is a key with its event.
type Entry struct {
	Key Key
	NID int64
}

// New returns the map of the given entries in O(N log N), or O(N) if they come in
// order. Of entries with the same key the last one counts; entries with nid 0 are
// left out.
func New(entries iter.Seq2[Key, int64]) Map {
	var es []entry
	for k, nid := range entries {
		es = append(es, newEntry(encodeKey(k), nid))
	}
	return Map{(*node)(nil).apply(sortEntries(es))}
}

// sortEntries sorts by key and keeps the last of equal keys.
func sortEntries(es []entry) []entry {
	byKey := func(a, b entry) int { return strings.Compare(a.key(), b.key()) }
	if !slices.IsSortedFunc(es, byKey) {
		slices.SortStableFunc(es, byKey)
	}
	out := es[:0]
	for i, e := range es {
		if i+1 == len(es) || es[i+1].key() != e.key() {
			out = append(out, e)
		}
	}
	return out
}

// Get returns the event at k.
func (m Map) Get(k Key) (nid int64, ok bool) {
	if m.root == nil {
		return 0, false
	}
	var buf keyBuf
	b := appendKey(buf[:0], k)
	return m.root.get(unsafe.String(&b[0], len(b)))
}

// Has says whether there is an event at k.
func (m Map) Has(k Key) bool {
	_, ok := m.Get(k)
	return ok
}

// Set returns a map with nid at k. nid 0 stands for "no event" and deletes k.
func (m Map) Set(k Key, nid int64) Map {
	if nid == 0 {
		return m.Delete(k)
	}
	var buf keyBuf
	b := appendKey(buf[:0], k)
	return Map{m.root.set(unsafe.String(&b[0], len(b)), nid)}
}

// Delete returns a map without k.
func (m Map) Delete(k Key) Map {
	var buf keyBuf
	b := appendKey(buf[:0], k)
	return Map{m.root.del(unsafe.String(&b[0], len(b)))}
}

// Apply returns the map with the changes' New events set (0 deletes), in one pass over
// what it touches. Of changes of the same key the last one counts.
func (m Map) Apply(changes []Change) Map {
	es := make([]entry, len(changes))
	for i, c := range changes {
		es[i] = newEntry(encodeKey(c.Key), c.New)
	}
	return m.apply(sortEntries(es))
}

func (m Map) apply(es []entry) Map { return Map{m.root.apply(es)} }

// Len returns the number of entries.
func (m Map) Len() int {
	if m.root == nil {
		return 0
	}
	return m.root.n
}

// Newest returns the greatest nid among the entries, 0 for the empty map, in O(1).
func (m Map) Newest() int64 {
	if m.root == nil {
		return 0
	}
	return m.root.newest
}

// ID returns the identity of the content. It is computed once per node: the first
// call on a freshly built map costs O(N), on a map made by Set from one whose ID is
// known O(log N).
func (m Map) ID() ID { return m.root.id() }

// Equal says whether two maps hold the same entries.
func (m Map) Equal(o Map) bool { return same(m.root, o.root) }

// Bytes estimates the memory that the map holds if it shares none of it.
func (m Map) Bytes() int64 {
	if m.root == nil {
		return 0
	}
	// An entry is 24 bytes and its key; nodes and rounding measured 12 per entry.
	return int64(m.root.n)*36 + int64(m.root.text) + 96
}

// All iterates over every entry, ordered by type and state key.
func (m Map) All() iter.Seq2[Key, int64] { return m.prefix("") }

// Type iterates over the entries of one event type, ordered by state key.
func (m Map) Type(typ string) iter.Seq2[Key, int64] {
	return m.prefix(encodeKey(Key{Type: typ}))
}

// Except iterates over the entries of all event types but one, in order. What it
// costs does not depend on how many entries are of that type.
func (m Map) Except(typ string) iter.Seq2[Key, int64] {
	p := encodeKey(Key{Type: typ})
	return func(yield func(Key, int64) bool) {
		m.root.walkExcept(p, func(e entry) bool { return yield(decodeKey(e.key()), e.nid) })
	}
}

// TypePrefix iterates over the entries of one event type whose state key starts
// with prefix, ordered by state key.
func (m Map) TypePrefix(typ, prefix string) iter.Seq2[Key, int64] {
	return m.prefix(encodeKey(Key{typ, prefix}))
}

func (m Map) prefix(p string) iter.Seq2[Key, int64] {
	return func(yield func(Key, int64) bool) {
		m.root.walk(p, func(e entry) bool { return yield(decodeKey(e.key()), e.nid) })
	}
}
