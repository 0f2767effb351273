package state

import (
	"hash/maphash"
	"math/bits"
	"sort"
	"strings"
	"sync/atomic"
	"unsafe"
)

// pageMax is how many entries a subtree may have and still be one sorted array.
// 32 keeps a whole small room in one page, and a large room four levels deep.
const pageMax = 32

// entry is one key with its event in 24 bytes: a string's length fits 32 bits, the
// other 32 hold a fingerprint, so that a look-up touches the text of one key only.
type entry struct {
	text *byte
	len  uint32
	tag  uint32
	nid  int64
}

// tagSeed is the process's own: tags are never stored and never part of an ID.
var tagSeed = maphash.MakeSeed()

func tagOf(key string) uint32 { return uint32(maphash.String(tagSeed, key)) }

// newEntry keeps key, which must not be empty (encodeKey's never are).
func newEntry(key string, nid int64) entry {
	return entry{unsafe.StringData(key), uint32(len(key)), tagOf(key), nid}
}

func (e *entry) key() string { return unsafe.String(e.text, int(e.len)) }

// node is a subtree: a page of at most pageMax entries, or an inner node of more.
// Which of the two, and where an inner node branches, follows from the set of keys
// alone; that is what makes equal content equal in shape. Nodes never change after
// they are published, but for the hash, which is filled in when first asked for.
type node struct {
	lo, hi atomic.Uint64 // content hash; zero: not computed yet
	page   []entry       // nil in inner nodes
	in     *inner        // nil in pages
	n      int           // entries below
	text   int           // bytes of their keys
	newest int64         // the greatest nid among them
}

// inner branches at byte len(prefix), the length of the longest common prefix of
// its keys. end holds the one key that is exactly the prefix, if there is one.
type inner struct {
	prefix string
	bitmap [4]uint64
	kids   []*node
	end    *node
}

func newPage(es []entry) *node {
	nd := &node{page: es, n: len(es)}
	for i := range es {
		nd.text += int(es[i].len)
		nd.newest = max(nd.newest, es[i].nid)
	}
	return nd
}

// wrap makes the node of in; the two are one allocation, for the cache's sake.
func wrap(in inner, n, text int) *node {
	both := &struct {
		node
		inner
	}{inner: in}
	both.node.in, both.node.n, both.node.text = &both.inner, n, text
	return &both.node
}

func newInner(in inner) *node {
	nd := wrap(in, 0, 0)
	if in.end != nil {
		nd.n, nd.text = in.end.n, in.end.text
	}
	for _, k := range in.kids {
		nd.n += k.n
		nd.text += k.text
	}
	nd.newest = in.newest()
	return nd
}

// newest is the greatest nid below.
func (in *inner) newest() int64 {
	var newest int64
	if in.end != nil {
		newest = in.end.newest
	}
	for _, k := range in.kids {
		newest = max(newest, k.newest)
	}
	return newest
}

func (in *inner) rank(b byte) int {
	w := int(b >> 6)
	r := bits.OnesCount64(in.bitmap[w] & (1<<(b&63) - 1))
	for i := range w {
		r += bits.OnesCount64(in.bitmap[i])
	}
	return r
}

func (in *inner) has(b byte) bool { return in.bitmap[b>>6]&(1<<(b&63)) != 0 }

// kid returns the child that holds keys with byte b after the prefix, or nil.
func (in *inner) kid(b byte) *node {
	if !in.has(b) {
		return nil
	}
	return in.kids[in.rank(b)]
}

// child returns the subtree in which key belongs; key must start with the prefix.
func (in *inner) child(key string) *node {
	if len(key) == len(in.prefix) {
		return in.end
	}
	return in.kid(key[len(in.prefix)])
}

// with returns a copy in which key's child is c; nil removes it.
func (in *inner) with(key string, c *node) inner {
	out := inner{prefix: in.prefix, bitmap: in.bitmap, end: in.end}
	if len(key) == len(in.prefix) {
		out.end, out.kids = c, in.kids
		return out
	}
	b := key[len(in.prefix)]
	r, had := in.rank(b), in.has(b)
	switch {
	case had && c != nil:
		out.kids = append([]*node(nil), in.kids...)
		out.kids[r] = c
	case had:
		out.bitmap[b>>6] &^= 1 << (b & 63)
		out.kids = make([]*node, 0, len(in.kids)-1)
		out.kids = append(append(out.kids, in.kids[:r]...), in.kids[r+1:]...)
	case c != nil:
		out.bitmap[b>>6] |= 1 << (b & 63)
		out.kids = make([]*node, 0, len(in.kids)+1)
		out.kids = append(append(append(out.kids, in.kids[:r]...), c), in.kids[r:]...)
	default:
		out.kids = in.kids
	}
	return out
}

// search finds key in a page: its index, or where it belongs.
func search(es []entry, key string) (int, bool) {
	lo, hi := 0, len(es)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if es[m].key() < key {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < len(es) && es[lo].key() == key
}

func (nd *node) get(key string) (int64, bool) {
	for nd != nil && nd.in != nil {
		if len(key) < len(nd.in.prefix) {
			return 0, false
		}
		// The prefix is not compared on the way: the page compares whole keys.
		nd = nd.in.child(key)
	}
	if nd == nil {
		return 0, false
	}
	tag := tagOf(key)
	for i := range nd.page {
		if e := &nd.page[i]; e.tag == tag && e.key() == key {
			return e.nid, true
		}
	}
	return 0, false
}

func (nd *node) set(key string, nid int64) *node {
	if nd == nil {
		return newPage([]entry{newEntry(strings.Clone(key), nid)})
	}
	if nd.in == nil {
		return nd.setInPage(key, nid)
	}
	p := commonPrefix(key, nd.in.prefix)
	if p < len(nd.in.prefix) {
		split := (&inner{prefix: nd.in.prefix[:p]}).with(nd.in.prefix, nd)
		return newInner(split.with(key, newPage([]entry{newEntry(strings.Clone(key), nid)})))
	}
	old := nd.in.child(key)
	c := old.set(key, nid)
	if c == old {
		return nd
	}
	n, text := nd.n+c.n, nd.text+c.text
	if old != nil {
		n -= old.n
		text -= old.text
	}
	out := wrap(nd.in.with(key, c), n, text)
	out.newest = max(nd.newest, c.newest)
	if old != nil && old.newest > c.newest && old.newest == nd.newest {
		out.newest = out.in.newest() // the newest event may be the one that went
	}
	return out
}

func (nd *node) setInPage(key string, nid int64) *node {
	i, ok := search(nd.page, key)
	if ok {
		if nd.page[i].nid == nid {
			return nd
		}
		es := append([]entry(nil), nd.page...)
		es[i].nid = nid
		return newPage(es)
	}
	es := make([]entry, 0, len(nd.page)+1)
	es = append(append(append(es, nd.page[:i]...), newEntry(strings.Clone(key), nid)), nd.page[i:]...)
	return build(es)
}

// del returns the subtree without key: nil if nothing is left, nd itself if the
// key was not there.
func (nd *node) del(key string) *node {
	if nd == nil {
		return nil
	}
	if nd.in == nil {
		i, ok := search(nd.page, key)
		if !ok {
			return nd
		}
		if len(nd.page) == 1 {
			return nil
		}
		es := make([]entry, 0, len(nd.page)-1)
		return newPage(append(append(es, nd.page[:i]...), nd.page[i+1:]...))
	}
	if !strings.HasPrefix(key, nd.in.prefix) {
		return nd
	}
	old := nd.in.child(key)
	c := old.del(key)
	if c == old {
		return nd
	}
	in := nd.in.with(key, c)
	if nd.n-1 <= pageMax {
		return newPage(newInner(in).appendTo(make([]entry, 0, nd.n-1)))
	}
	if in.end == nil && len(in.kids) == 1 {
		return in.kids[0]
	}
	return newInner(in)
}

// build makes the subtree of sorted, distinct entries, which it keeps.
func build(es []entry) *node {
	if len(es) == 0 {
		return nil
	}
	if len(es) <= pageMax {
		return newPage(es[:len(es):len(es)])
	}
	depth := commonPrefix(es[0].key(), es[len(es)-1].key())
	in := inner{prefix: es[0].key()[:depth]}
	if int(es[0].len) == depth {
		in.end = newPage(es[:1:1])
		es = es[1:]
	}
	for len(es) > 0 {
		b := es[0].key()[depth]
		n := sort.Search(len(es), func(i int) bool { return es[i].key()[depth] > b })
		in.bitmap[b>>6] |= 1 << (b & 63)
		in.kids = append(in.kids, build(es[:n]))
		es = es[n:]
	}
	in.kids = append([]*node(nil), in.kids...) // exact size: nodes live long
	return newInner(in)
}

func (nd *node) appendTo(es []entry) []entry {
	nd.walk("", func(e entry) bool { es = append(es, e); return true })
	return es
}

// walk visits the entries whose key starts with prefix, in order, until f says no.
func (nd *node) walk(prefix string, f func(entry) bool) bool {
	if nd == nil {
		return true
	}
	if nd.in == nil {
		i := 0
		if prefix != "" {
			i, _ = search(nd.page, prefix)
		}
		for ; i < len(nd.page) && strings.HasPrefix(nd.page[i].key(), prefix); i++ {
			if !f(nd.page[i]) {
				return false
			}
		}
		return true
	}
	if len(prefix) > len(nd.in.prefix) {
		if !strings.HasPrefix(prefix, nd.in.prefix) {
			return true
		}
		return nd.in.kid(prefix[len(nd.in.prefix)]).walk(prefix, f)
	}
	if !strings.HasPrefix(nd.in.prefix, prefix) {
		return true
	}
	if !nd.in.end.walk("", f) {
		return false
	}
	for _, k := range nd.in.kids {
		if !k.walk("", f) {
			return false
		}
	}
	return true
}

// walkExcept visits the entries whose key does not start with prefix, in order, until f says no. Subtrees that hold no
// others are not entered.
func (nd *node) walkExcept(prefix string, f func(entry) bool) bool {
	if nd == nil {
		return true
	}
	if nd.in == nil {
		for _, e := range nd.page {
			if !strings.HasPrefix(e.key(), prefix) && !f(e) {
				return false
			}
		}
		return true
	}
	if strings.HasPrefix(nd.in.prefix, prefix) {
		return true
	}
	if !strings.HasPrefix(prefix, nd.in.prefix) {
		return nd.walk("", f)
	}
	if !nd.in.end.walk("", f) {
		return false
	}
	within := nd.in.kid(prefix[len(nd.in.prefix)])
	for _, k := range nd.in.kids {
		walk := func() bool { return k.walk("", f) }
		if k == within {
			walk = func() bool { return k.walkExcept(prefix, f) }
		}
		if !walk() {
			return false
		}
	}
	return true
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
