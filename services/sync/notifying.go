package sync

import (
	"context"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// notifying are the events of a room that notify by the default rules, as far back as somebody's read position. Whoever has read
// at least that far finds in them what does not notify them, so that the room's events are not looked at for each user.
// It is immutable.
type notifying struct {
	after, pos int64             // the events at log positions in (after, pos] are in it
	events     *roomdb.Notifying // nil if there are too many to look at
}

// notifyingRooms are the notifying events of rooms that somebody has asked for.
type notifyingRooms struct {
	known    *cache.Cache[roomdb.RoomKey, *notifying]
	underway underway[roomdb.RoomKey]
}

func newNotifyingRooms(budget int64, reg prometheus.Registerer) *notifyingRooms {
	return &notifyingRooms{known: cache.New(cache.Config[roomdb.RoomKey, *notifying]{
		Name: "notifying", Budget: budget, MaxAge: openingAge, Metrics: reg,
		Weigh: func(_ roomdb.RoomKey, n *notifying) int64 {
			size := 200
			if n.events != nil {
				for _, s := range n.events.Senders {
					size += 25 + len(s)
				}
			}
			return int64(size)
		},
	})}
}

// silent counts those in a span that do not notify a user: the user's own, those of ignored users, and redacted ones.
func (n *notifying) silent(who id.User, ignored view.Ignored, span roomdb.UnreadSpan) (count int64) {
	for i, ord := range n.events.Ords {
		if ord <= span.After || ord > span.UpTo {
			continue
		}
		if sender := id.User(n.events.Senders[i]); n.events.Redacted[i] || sender == who || ignored.Has(sender) {
			count++
		}
	}
	return count
}

// covers returns what is known of a room and suffices for a span, or nil.
func (s *Service) covers(span roomdb.UnreadSpan) *notifying {
	// If nothing happened in the room since, no event was redacted either.
	if n, ok := s.notifying.known.Get(span.RoomKey); ok && n.after <= span.After && s.tail.quiet(span.RoomKey, n.pos) {
		return n
	}
	return nil
}

// unreadCounts are the parts of a read state that PostgreSQL knows.
type unreadCounts struct{ silent, mentions int64 }

// unreadBehind counts what lies behind a user's read positions. Events that notify are read once for all who ask at the same time.
func (s *Service) unreadBehind(ctx context.Context, who id.User, ignored view.Ignored, spans []roomdb.UnreadSpan) (map[roomdb.RoomKey]unreadCounts, error) {
	users := slices.Collect(maps.Keys(ignored))
	counts := make(map[roomdb.RoomKey]unreadCounts, len(spans))
	var long []roomdb.UnreadSpan
	// What another reads meanwhile may not go back far enough: then it is read again.
	for rest, last := spans, false; len(rest) > 0; last = true {
		own, others, err := s.readUnread(ctx, who, users, rest, counts)
		if err != nil {
			return nil, err
		}
		if err := waitAll(ctx, others); err != nil {
			return nil, err
		}
		var again []roomdb.UnreadSpan
		for _, span := range rest {
			n := own[span.RoomKey]
			if n == nil {
				n = s.covers(span)
			}
			switch {
			case n == nil && !last:
				again = append(again, span)
			case n == nil || n.events == nil:
				long = append(long, span)
			default:
				counts[span.RoomKey] = unreadCounts{n.silent(who, ignored, span), counts[span.RoomKey].mentions}
			}
		}
		rest = again
	}
	silent, err := s.rooms.Silent(ctx, who, users, long)
	if err != nil {
		return nil, err
	}
	for key, n := range silent {
		counts[key] = unreadCounts{n, counts[key].mentions}
	}
	return counts, nil
}

// readUnread reads the mentions in spans, and the notifying events of those rooms of which they are neither known nor being read.
// It returns these, and what to wait for until the others are read.
func (s *Service) readUnread(ctx context.Context, who id.User, ignored []id.User, spans []roomdb.UnreadSpan, counts map[roomdb.RoomKey]unreadCounts) (own map[roomdb.RoomKey]*notifying, others []<-chan struct{}, err error) {
	var unknown []roomdb.RoomKey
	for _, span := range spans {
		if s.covers(span) == nil {
			unknown = append(unknown, span.RoomKey)
		}
	}
	mine, others := s.notifying.underway.claim(unknown)
	defer s.notifying.underway.release(mine)
	list := make([]bool, len(spans))
	for i, span := range spans {
		list[i] = mine[span.RoomKey]
	}
	found, err := s.rooms.Unread(ctx, who, ignored, spans, list)
	if err != nil {
		return nil, nil, err
	}
	own = make(map[roomdb.RoomKey]*notifying, len(mine))
	for i, span := range spans {
		u := found[span.RoomKey]
		counts[span.RoomKey] = unreadCounts{mentions: u.Mentions}
		if list[i] {
			own[span.RoomKey] = &notifying{after: span.After, pos: span.UpTo, events: u.Notifying}
			s.notifying.known.Add(span.RoomKey, own[span.RoomKey])
		}
	}
	return own, others, nil
}
