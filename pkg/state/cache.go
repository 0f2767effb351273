package state

import "container/list"

// cache keeps maps within a byte budget. Maps that came from one another share most
// of their memory, so they are counted, and leave, by family: a map that was loaded
// whole, and what was derived from it, each at the cost of what it does not share.
type cache struct {
	budget, used int64
	items        map[Ref]*item
	parts        map[uint32]int // cached maps per partition
	families     *list.List     // of *family; most recently used first
	evicted      int64
}

type family struct {
	at      *list.Element
	base    int64 // bytes of the map that was loaded whole
	derived int64 // bytes of what came from it
	members *list.List
}

type item struct {
	ref  Ref
	m    Map
	cost int64
	fam  *family
	at   *list.Element
}

// pathBytes is what a changed entry costs beside what is shared: a page and the inner
// nodes above it (measured: BenchmarkSet).
const pathBytes = 1700

func newCache(budget int64) *cache {
	return &cache{budget: budget, items: map[Ref]*item{}, parts: map[uint32]int{}, families: list.New()}
}

func (c *cache) get(ref Ref) (Map, bool) {
	it := c.items[ref]
	if it == nil {
		return Map{}, false
	}
	it.fam.members.MoveToFront(it.at)
	c.families.MoveToFront(it.fam.at)
	return it.m, true
}

// put adds a map. If near is cached, m was made from it by so many changes.
func (c *cache) put(ref Ref, m Map, near Ref, changes int) {
	if _, ok := c.get(ref); ok {
		return
	}
	it := &item{ref: ref, m: m}
	cost := min(int64(changes)*pathBytes, m.Bytes()) + 200
	if rel := c.items[near]; rel != nil && near != (Ref{}) {
		it.fam, it.cost = rel.fam, cost
		it.fam.derived += cost
		c.families.MoveToFront(it.fam.at)
	} else {
		it.fam = &family{base: m.Bytes() + 400, members: list.New()}
		it.fam.at = c.families.PushFront(it.fam)
		cost = it.fam.base
	}
	it.at = it.fam.members.PushFront(it)
	c.items[ref] = it
	c.parts[ref.Part]++
	c.used += cost
	c.trim(it.fam)
}

// trim keeps what was derived within half of the base (and some), and all within the
// budget.
func (c *cache) trim(f *family) {
	for f.derived > f.base/2+1<<20 && f.members.Len() > 1 {
		c.drop(f.members.Back().Value.(*item))
	}
	for c.used > c.budget && c.families.Len() > 0 {
		last := c.families.Back().Value.(*family)
		for last.members.Len() > 0 {
			c.drop(last.members.Back().Value.(*item))
		}
	}
}

func (c *cache) drop(it *item) {
	f := it.fam
	f.members.Remove(it.at)
	f.derived -= it.cost
	c.used -= it.cost
	delete(c.items, it.ref)
	if c.parts[it.ref.Part]--; c.parts[it.ref.Part] == 0 {
		delete(c.parts, it.ref.Part)
	}
	c.evicted++
	if f.members.Len() == 0 {
		c.families.Remove(f.at)
		c.used -= f.base
	}
}
