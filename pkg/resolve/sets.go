package resolve

import (
	"iter"
	"math/bits"

	"hanse/pkg/authgraph"
)

// indexSet is a set of events of a graph: a bit each, in pages that exist where a bit is set. Its cost follows what is in
// it; a graph of a million events takes a list of 2 kB.
type indexSet struct {
	pages []*page
	n     int
}

const pageBits = 4096

type page [pageBits / 64]uint64

func newIndexSet(graph int) indexSet {
	return indexSet{pages: make([]*page, (graph+pageBits-1)/pageBits)}
}

func (s *indexSet) has(i authgraph.Index) bool {
	if len(s.pages) == 0 {
		return false
	}
	p := s.pages[i/pageBits]
	return p != nil && p[i%pageBits/64]&(1<<(i%64)) != 0
}

// add says whether i is new.
func (s *indexSet) add(i authgraph.Index) bool {
	p := s.pages[i/pageBits]
	if p == nil {
		p = new(page)
		s.pages[i/pageBits] = p
	}
	word := &p[i%pageBits/64]
	if *word&(1<<(i%64)) != 0 {
		return false
	}
	*word |= 1 << (i % 64)
	s.n++
	return true
}

// all iterates in ascending order.
func (s *indexSet) all() iter.Seq[authgraph.Index] {
	return func(yield func(authgraph.Index) bool) {
		for at, p := range s.pages {
			if p == nil {
				continue
			}
			for w, word := range p {
				for ; word != 0; word &= word - 1 {
					if !yield(authgraph.Index(at*pageBits + w*64 + bits.TrailingZeros64(word))) {
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
	page, word int // no event is in a later one
}

func newDescending(graph int) descending {
	s := newIndexSet(graph)
	return descending{s, len(s.pages) - 1, pageBits/64 - 1}
}

func (d *descending) push(i authgraph.Index) { d.add(i) }

func (d *descending) pop() (authgraph.Index, bool) {
	for ; d.page >= 0; d.page, d.word = d.page-1, pageBits/64-1 {
		p := d.pages[d.page]
		if p == nil {
			continue
		}
		for ; d.word >= 0; d.word-- {
			if word := p[d.word]; word != 0 {
				bit := 63 - bits.LeadingZeros64(word)
				p[d.word] &^= 1 << bit
				return authgraph.Index(d.page*pageBits + d.word*64 + bit), true
			}
		}
	}
	return 0, false
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
