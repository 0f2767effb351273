package resolve

import (
	"math/bits"
	"math/rand/v2"
	"unsafe"
)

// directory finds pages by number. Its size follows the pages that exist, not the numbers that they could have: it is a hash
// table while there are few pages, and a list with a place for each number once one number in listFrom has its page.
type directory[P any] struct {
	numbers int // every number is below it
	made    int // pages

	list []*P          // by number; nil while the pages are few
	few  []numbered[P] // open addressing; the length is a power of two and at least twice the number of pages
}

type numbered[P any] struct {
	number uint32
	page   *P
}

const (
	listFrom = 8
	leastFew = 8
)

// spreading makes hashes of page numbers. It is random, so that nobody can choose events whose pages collide.
var spreading = rand.Uint32() | 1

// grow makes room for the numbers below n.
func (d *directory[P]) grow(n int) {
	d.numbers = max(d.numbers, n)
	if d.list != nil && n > len(d.list) {
		d.list = append(d.list, make([]*P, n-len(d.list))...)
	}
}

// get returns the page with a number, nil if there is none.
func (d *directory[P]) get(n uint32) *P {
	if d.list != nil {
		return d.list[n]
	}
	return d.find(n)
}

// find is get while the pages are few. It is kept out of line, so that get is not: in a long list nearly all of a resolution's
// time is spent there.
//
//go:noinline
func (d *directory[P]) find(n uint32) *P {
	if d.made == 0 {
		return nil
	}
	return d.few[d.slot(n)].page
}

// slot is the place of a number in the hash table: its own, or the free one where it belongs.
func (d *directory[P]) slot(n uint32) int {
	mask := len(d.few) - 1
	at := int(n*spreading>>(32-bits.Len(uint(mask)))) & mask
	for d.few[at].page != nil && d.few[at].number != n {
		at = (at + 1) & mask
	}
	return at
}

// put adds a page under a number that has none.
func (d *directory[P]) put(n uint32, p *P) {
	d.made++
	switch {
	case d.list != nil:
		d.list[n] = p
		return
	case d.made*listFrom >= d.numbers:
		d.list = make([]*P, d.numbers)
		for _, e := range d.few {
			if e.page != nil {
				d.list[e.number] = e.page
			}
		}
		d.list[n], d.few = p, nil
		return
	case 2*d.made > len(d.few):
		before := d.few
		d.few = make([]numbered[P], max(2*len(before), leastFew))
		for _, e := range before {
			if e.page != nil {
				d.few[d.slot(e.number)] = e
			}
		}
	}
	d.few[d.slot(n)] = numbered[P]{n, p}
}

// clear drops all pages.
func (d *directory[P]) clear() { *d = directory[P]{numbers: d.numbers} }

// bytes is the memory that the directory holds, its pages included.
func (d *directory[P]) bytes() int64 {
	return int64(cap(d.list))*int64(unsafe.Sizeof((*P)(nil))) + int64(len(d.few))*int64(unsafe.Sizeof(numbered[P]{})) +
		int64(d.made)*int64(unsafe.Sizeof(*new(P)))
}
