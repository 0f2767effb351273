package roomdir

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// PublicQuery asks for a page of the published rooms (client-server API, "Published Room Directory").
type PublicQuery struct {
	// Term must occur in name, topic or alias, in any case.
	Term string
	// Types restricts the room types; nil does not, "" stands for rooms without a type.
	Types []string
	// Limit is at least 1.
	Limit int
	// After is the room at which the page before ended, Before that at which the page after begins; "" for none.
	After, Before *Place
}

// Place is a room's place in the directory: the largest rooms come first.
type Place struct {
	Joined int
	Room   id.Room
}

// PublicPage is a page of published rooms.
type PublicPage struct {
	Rooms []*Summary
	// Next and Prev say whether there are more rooms behind and before the page.
	Next, Prev bool
	// Total counts all published rooms.
	Total int
}

// Public returns a page of the published rooms that the cluster is in.
func (d *DB) Public(ctx context.Context, q PublicQuery) (*PublicPage, error) {
	rooms, err := d.rooms.Published(ctx)
	if err != nil {
		return nil, err
	}
	rooms = slices.DeleteFunc(rooms, func(r *roomdb.Room) bool { return r.JoinedLocal == 0 })
	page := &PublicPage{Total: len(rooms)}
	slices.SortFunc(rooms, func(a, b *roomdb.Room) int { return order(placeOf(a), placeOf(b)) })
	all, err := d.inOrder(ctx, rooms)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s *Summary) bool { return !q.matches(s) })
	first, last := 0, len(all)
	if q.After != nil {
		for first < last && order(all[first].place(), *q.After) <= 0 {
			first++
		}
	}
	if q.Before != nil {
		for last > first && order(all[last-1].place(), *q.Before) >= 0 {
			last--
		}
		first = max(first, last-q.Limit)
	}
	last = min(last, first+q.Limit)
	page.Prev, page.Next = first > 0, last < len(all)
	page.Rooms = all[first:last]
	return page, nil
}

func (s *Summary) place() Place { return Place{s.Joined, s.RoomID} }

func (d *DB) inOrder(ctx context.Context, rooms []*roomdb.Room) ([]*Summary, error) {
	found, err := d.Summaries(ctx, rooms)
	if err != nil {
		return nil, err
	}
	out := make([]*Summary, len(rooms))
	for i, r := range rooms {
		out[i] = found[r.ID]
	}
	return out, nil
}

func placeOf(r *roomdb.Room) Place { return Place{r.Joined, r.ID} }

func order(a, b Place) int {
	return cmp.Or(cmp.Compare(b.Joined, a.Joined), cmp.Compare(a.Room, b.Room))
}

func (q *PublicQuery) matches(s *Summary) bool {
	if q.Types != nil && !slices.Contains(q.Types, s.RoomType) {
		return false
	}
	if q.Term == "" {
		return true
	}
	term := strings.ToLower(q.Term)
	for _, text := range []string{s.Name, s.Topic, s.CanonicalAlias} {
		if strings.Contains(strings.ToLower(text), term) {
			return true
		}
	}
	return false
}
