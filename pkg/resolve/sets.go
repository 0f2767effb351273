package resolve

import (
	"iter"
	"math/bits"
	"slices"

	"hanse/pkg/authgraph"
)

// indexSet is a set of events of a graph: a bit each, in pages that exist where a bit is set. Its cost follows what is in it.
type indexSet struct {
	pages   directory[page]
	numbers []uint32 // of the pages
	n       int
}

const pageBits = 1024

type page [pageBits / 64]uint64

func newIndexSet(graph int) (s indexSet) {
	s.pages.grow((graph + pageBits - 1) / pageBits)
	return s
}

func (s *indexSet) has(i authgraph.Index) bool {
	p := s.pages.get(uint32(i / pageBits))
	return p != nil && p[i%pageBits/64]&(1<<(i%64)) != 0
}

// add says whether i is new.
func (s *indexSet) add(i authgraph.Index) bool {
	p := s.pages.get(uint32(i / pageBits))
	if p == nil {
		p = new(page)
		s.pages.put(uint32(i/pageBits), p)
		s.numbers = append(s.numbers, uint32(i/pageBits))
	}
	word := &p[i%pageBits/64]
	if *word&(1<<(i%64)) != 0 {
		return false
	}
	*word |= 1 << (i % 64)
	s.n++
	return true
}

// all iterates in ascending order. Nothing may be added meanwhile.
func (s *indexSet) all() iter.Seq[authgraph.Index] {
	return func(yield func(authgraph.Index) bool) {
		slices.Sort(s.numbers)
		for _, n := range s.numbers {
			for w, word := range s.pages.get(n) {
				for ; word != 0; word &= word - 1 {
					if !yield(authgraph.Index(int(n)*pageBits + w*64 + bits.TrailingZeros64(word))) {
						return
					}
				}
			}
		}
	}
}

// list returns the elements in ascending order.
func (s *indexSet) list() []authgraph.Index {
	out := make([]authgraph.Index, 0, s.n)
	for i := range s.all() {
		out = append(out, i)
	}
	return out
}

// descending gives the events of a set from the greatest down. What is put in while it does is smaller than what came out
// last.
type descending struct {
	indexSet
	later heap[uint32] // numbers of the pages that it has not come to

	page *page // that it has come to
	at   uint32
	word int // no event of the page is in a later one
}

func newDescending(graph int) descending {
	return descending{
		indexSet: newIndexSet(graph),
		later:    heap[uint32]{before: func(x, y *uint32) bool { return *x > *y }},
	}
}

func (d *descending) push(i authgraph.Index) {
	pages := len(d.numbers)
	if d.add(i); len(d.numbers) > pages {
		d.later.push(d.numbers[pages])
	}
}

func (d *descending) pop() (authgraph.Index, bool) {
	for {
		for ; d.page != nil && d.word >= 0; d.word-- {
			if word := d.page[d.word]; word != 0 {
				bit := 63 - bits.LeadingZeros64(word)
				d.page[d.word] &^= 1 << bit
				return authgraph.Index(int(d.at)*pageBits + d.word*64 + bit), true
			}
		}
		if len(d.later.items) == 0 {
			return 0, false
		}
		d.at = d.later.pop()
		d.page, d.word = d.pages.get(d.at), len(d.page)-1
	}
}

// heap is a binary heap whose first element is the one that comes before all others.
type heap[T any] struct {
	items  []T
	before func(x, y *T) bool
}

func (h *heap[T]) push(x T) {
	h.items = append(h.items, x)
	for i := len(h.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(&h.items[i], &h.items[up]) {
			return
		}
		h.items[i], h.items[up] = h.items[up], h.items[i]
		i = up
	}
}

func (h *heap[T]) pop() T {
	first := h.items[0]
	last := len(h.items) - 1
	h.items[0] = h.items[last]
	h.items = h.items[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if h.before(&h.items[c], &h.items[least]) {
				least = c
			}
		}
		if least == i {
			return first
		}
		h.items[i], h.items[least] = h.items[least], h.items[i]
		i = least
	}
}
