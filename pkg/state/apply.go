package state

import "sort"

// apply returns the subtree with sorted, distinct entries set (nid 0 deletes). Each
// node that it touches is made anew once, however many entries fall below it; the rest
// is shared.
func (nd *node) apply(es []entry) *node {
	switch {
	case len(es) == 0:
		return nd
	case nd == nil:
		return build(present(es))
	case nd.in == nil:
		return nd.applyToPage(es)
	}
	prefix := nd.in.prefix
	p := min(commonPrefix(es[0].key(), prefix), commonPrefix(es[len(es)-1].key(), prefix))
	if p < len(prefix) {
		// Some keys lie beside the subtree: it becomes a child of a node above.
		return applyToKids((&inner{prefix: prefix[:p]}).with(prefix, nd), es)
	}
	return applyToKids(*nd.in, es)
}

// applyToKids deals the entries, all of which have the prefix, out to the children.
func applyToKids(in inner, es []entry) *node {
	out := inner{prefix: in.prefix, end: in.end, kids: make([]*node, 0, len(in.kids)+1)}
	depth := len(in.prefix)
	if int(es[0].len) == depth {
		out.end = in.end.apply(es[:1])
		es = es[1:]
	}
	for b := range 256 {
		c := in.kid(byte(b))
		if len(es) > 0 && int(es[0].key()[depth]) == b {
			n := sort.Search(len(es), func(i int) bool { return int(es[i].key()[depth]) > b })
			c = c.apply(es[:n])
			es = es[n:]
		}
		if c != nil {
			out.bitmap[b>>6] |= 1 << (b & 63)
			out.kids = append(out.kids, c)
		}
	}
	return settle(out)
}

// settle gives an inner node the shape that its content asks for.
func settle(in inner) *node {
	nd := newInner(in)
	switch {
	case nd.n == 0:
		return nil
	case nd.n <= pageMax:
		return newPage(nd.appendTo(make([]entry, 0, nd.n)))
	case in.end == nil && len(in.kids) == 1:
		return in.kids[0]
	}
	return nd
}

func (nd *node) applyToPage(es []entry) *node {
	old := nd.page
	out := make([]entry, 0, len(old)+len(es))
	for len(es) > 0 {
		i, had := search(old, es[0].key())
		out = append(out, old[:i]...)
		old = old[i:]
		e := es[0]
		if had {
			e.text = old[0].text // one copy of a key is enough
			old = old[1:]
		}
		if e.nid != 0 {
			out = append(out, e)
		}
		es = es[1:]
	}
	return build(append(out, old...))
}

// present returns the entries that are not deletions, in an array of their own.
func present(es []entry) []entry {
	out := make([]entry, 0, len(es))
	for _, e := range es {
		if e.nid != 0 {
			out = append(out, e)
		}
	}
	return out
}
