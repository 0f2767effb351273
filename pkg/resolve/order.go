package resolve

import (
	"cmp"
	"encoding/binary"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/id"
)

// place is what an event is ordered by: a rank, then "earlier origin_server_ts", then the smaller event id (room version 2,
// "State resolution"). Of the id the first bytes are held.
type place struct {
	rank int64
	ts   int64
	name uint64
	at   authgraph.Index
	n    int32 // in the list that is ordered
}

func (r *resolution) placeOf(n int, i authgraph.Index, rank int64) place {
	f := r.m.fact(i)
	return place{rank, f.ts, f.name, i, int32(n)}
}

// compare is 0 where the event ids would have to be read.
func (x *place) compare(y *place) int {
	switch {
	case x.rank != y.rank:
		return cmp.Compare(x.rank, y.rank)
	case x.ts != y.ts:
		return cmp.Compare(x.ts, y.ts)
	}
	return cmp.Compare(x.name, y.name)
}

// beginOf is the begin of an event id as a number: where two differ, the ids have the same order.
func beginOf(e id.Event) uint64 {
	var b [8]byte
	copy(b[:], e)
	return binary.BigEndian.Uint64(b[:])
}

// sort orders events. It reads those whose ids it needs.
func (r *resolution) sort(list []place) error {
	slices.SortFunc(list, func(x, y place) int { return x.compare(&y) })
	var unread []authgraph.Index
	tied := false
	for n := 1; n < len(list); n++ {
		if list[n].compare(&list[n-1]) != 0 {
			continue
		}
		tied = true
		for _, p := range list[n-1 : n+1] {
			if r.events[p.at] == nil {
				unread = append(unread, p.at)
			}
		}
	}
	if !tied {
		return nil
	}
	if err := r.load(unread); err != nil {
		return err
	}
	slices.SortFunc(list, func(x, y place) int {
		if c := x.compare(&y); c != 0 || x.at == y.at {
			return c
		}
		return cmp.Compare(r.events[x.at].ID, r.events[y.at].ID)
	})
	return nil
}
