package resolve

import "unsafe"

// table holds values by number, in pages that exist where one was set. What was never set is the zero value.
type table[T any] struct {
	pages []*tablePage[T]
	made  int
	round uint32
}

const tablePageSize = 64

type tablePage[T any] struct {
	round  uint32 // of the table, when it was last cleared
	values [tablePageSize]T
}

// grow makes room for the numbers below n.
func (t *table[T]) grow(n int) {
	if pages := (n + tablePageSize - 1) / tablePageSize; pages > len(t.pages) {
		t.pages = append(t.pages, make([]*tablePage[T], pages-len(t.pages))...)
	}
}

// clear forgets all values, and keeps the pages.
func (t *table[T]) clear() {
	if t.round++; t.round == 0 { // pages of old would look new
		clear(t.pages)
		t.made = 0
	}
}

func (t *table[T]) get(i uint32) (v T) {
	if p := t.pages[i/tablePageSize]; p != nil && p.round == t.round {
		v = p.values[i%tablePageSize]
	}
	return v
}

// at is the place of a value, until the table is cleared.
func (t *table[T]) at(i uint32) *T {
	p := t.pages[i/tablePageSize]
	switch {
	case p == nil:
		p = &tablePage[T]{round: t.round}
		t.pages[i/tablePageSize] = p
		t.made++
	case p.round != t.round:
		p.round = t.round
		clear(p.values[:])
	}
	return &p.values[i%tablePageSize]
}

func (t *table[T]) bytes() int64 {
	return int64(cap(t.pages))*8 + int64(t.made)*int64(unsafe.Sizeof(tablePage[T]{}))
}
