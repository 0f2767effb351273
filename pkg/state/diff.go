package state

import (
	"iter"
	"math/bits"
)

// Change is one key on which two maps differ; 0 stands for "no event".
type Change struct {
	Key      Key
	Old, New int64
}

// Diff iterates in order over the keys on which a and b differ. Subtrees that are
// the same node, or have the same content hash, are not entered: the cost is
// O(differences · height), not O(N). See docs/state.md for the proof.
func Diff(a, b Map) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		diffMaps([]Map{a, b}, func(key string, nids []int64) bool {
			return yield(Change{decodeKey(key), nids[0], nids[1]})
		})
	}
}

// DiffN iterates in order over the keys that are not equal in all of the maps, with
// the event of each map (0: absent): the conflicted keys of state resolution. The
// slice is only valid until the next iteration.
func DiffN(ms []Map) iter.Seq2[Key, []int64] {
	return func(yield func(Key, []int64) bool) {
		diffMaps(ms, func(key string, nids []int64) bool {
			return yield(decodeKey(key), nids)
		})
	}
}

func diffMaps(ms []Map, emit func(string, []int64) bool) {
	if len(ms) < 2 {
		return
	}
	newDiffer(ms, emit).run(0)
}

func newDiffer(ms []Map, emit func(string, []int64) bool) *differ {
	d := &differ{emit: emit, nids: make([]int64, len(ms)), pos: make([]int, len(ms))}
	for _, m := range ms {
		d.stack = append(d.stack, m.root)
	}
	return d
}

// differ walks k subtrees that cover the same range of keys at once.
type differ struct {
	emit  func(string, []int64) bool
	nids  []int64
	pos   []int
	lists [][]entry
	stack []*node // frames of k nodes each; reused, so that a level costs no allocation

	compared int // nodes and entries, for the tests
}

// run compares the k nodes that start at stack[at]; false means stop.
func (d *differ) run(at int) bool {
	k := len(d.nids)
	nodes := d.stack[at : at+k : at+k]
	d.compared += k
	equal, inners := true, true
	for _, nd := range nodes {
		equal = equal && same(nodes[0], nd)
		inners = inners && nd != nil && nd.in != nil
	}
	if equal {
		return true
	}
	if !inners {
		// One has at most pageMax keys here, so all but pageMax of the keys of the
		// largest differ: reading them all is paid for by the differences.
		return d.merge(nodes)
	}
	// Branch where the first of them branches. One that branches later has all its
	// keys in one child of that place: itself.
	prefix := nodes[0].in.prefix
	for _, nd := range nodes[1:] {
		prefix = prefix[:commonPrefix(prefix, nd.in.prefix)]
	}
	var bitmap [4]uint64
	anyEnd := false
	for _, nd := range nodes {
		if p := nd.in.prefix; len(p) > len(prefix) {
			b := p[len(prefix)]
			bitmap[b>>6] |= 1 << (b & 63)
			continue
		}
		anyEnd = anyEnd || nd.in.end != nil
		for w := range bitmap {
			bitmap[w] |= nd.in.bitmap[w]
		}
	}
	if anyEnd && !d.descend(at, prefix, -1) {
		return false
	}
	for w, word := range bitmap {
		for ; word != 0; word &= word - 1 {
			if !d.descend(at, prefix, w<<6+bits.TrailingZeros64(word)) {
				return false
			}
		}
	}
	return true
}

// descend compares what the k nodes at stack[at] hold below prefix and byte b (-1:
// the key that is the prefix itself).
func (d *differ) descend(at int, prefix string, b int) bool {
	k := len(d.nids)
	d.stack = d.stack[:at+k]
	equal := true
	for i := range k {
		c := d.stack[at+i].below(len(prefix), b)
		equal = equal && (i == 0 || c == d.stack[at+k])
		d.stack = append(d.stack, c)
	}
	return equal || d.run(at+k)
}

func (nd *node) below(depth, b int) *node {
	switch p := nd.in.prefix; {
	case len(p) > depth && int(p[depth]) == b:
		return nd
	case len(p) > depth:
		return nil
	case b < 0:
		return nd.in.end
	default:
		return nd.in.kid(byte(b))
	}
}

// merge compares entry by entry.
func (d *differ) merge(nodes []*node) bool {
	if d.lists == nil {
		d.lists = make([][]entry, len(nodes))
	}
	lists := d.lists
	for i, nd := range nodes {
		switch {
		case nd == nil:
			lists[i] = nil
		case nd.in == nil:
			lists[i] = nd.page
		default:
			lists[i] = nd.appendTo(make([]entry, 0, nd.n))
		}
		d.compared += len(lists[i])
	}
	clear(d.pos)
	for {
		least, found := "", false
		for i, l := range lists {
			if p := d.pos[i]; p < len(l) && (!found || l[p].key() < least) {
				least, found = l[p].key(), true
			}
		}
		if !found {
			return true
		}
		differs := false
		for i, l := range lists {
			d.nids[i] = 0
			if p := d.pos[i]; p < len(l) && l[p].key() == least {
				d.nids[i] = l[p].nid
				d.pos[i]++
			}
			differs = differs || d.nids[i] != d.nids[0]
		}
		if differs && !d.emit(least, d.nids) {
			return false
		}
	}
}
