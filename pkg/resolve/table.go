package resolve

// table holds values by number, in pages that exist where one was set. What was never set is the zero value.
type table[T any] struct {
	pages directory[tablePage[T]]
	round uint32
}

const tablePageSize = 64

type tablePage[T any] struct {
	round  uint32 // of the table, when it was last cleared
	values [tablePageSize]T
}

// grow makes room for the numbers below n.
func (t *table[T]) grow(n int) { t.pages.grow((n + tablePageSize - 1) / tablePageSize) }

// clear forgets all values, and keeps the pages.
func (t *table[T]) clear() {
	if t.round++; t.round == 0 { // pages of old would look new
		t.pages.clear()
	}
}

func (t *table[T]) get(i uint32) (v T) {
	if p := t.pages.get(i / tablePageSize); p != nil && p.round == t.round {
		v = p.values[i%tablePageSize]
	}
	return v
}

// at is the place of a value, until the table is cleared.
func (t *table[T]) at(i uint32) *T {
	p := t.pages.get(i / tablePageSize)
	switch {
	case p == nil:
		p = &tablePage[T]{round: t.round}
		t.pages.put(i/tablePageSize, p)
	case p.round != t.round:
		p.round = t.round
		clear(p.values[:])
	}
	return &p.values[i%tablePageSize]
}

func (t *table[T]) bytes() int64 { return t.pages.bytes() }
