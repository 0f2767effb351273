package state

// Join takes over the rows of another batch of the same Writer, which is not used any more: so several changes go into
// one transaction with the same number of statements as one.
func (b *Batch) Join(o *Batch) {
	b.deltas.parts = append(b.deltas.parts, o.deltas.parts...)
	b.deltas.sids = append(b.deltas.sids, o.deltas.sids...)
	b.deltas.parents = append(b.deltas.parents, o.deltas.parents...)
	b.deltas.data = append(b.deltas.data, o.deltas.data...)
	b.segs.parts = append(b.segs.parts, o.segs.parts...)
	b.segs.sids = append(b.segs.sids, o.segs.sids...)
	b.segs.backs = append(b.segs.backs, o.segs.backs...)
	b.segs.span = append(b.segs.span, o.segs.span...)
	b.segs.data = append(b.segs.data, o.segs.data...)
	b.later = append(b.later, o.later...)
}
