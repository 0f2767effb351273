package sync

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// bundleKey names some neighbouring events of a timeline.
type bundleKey struct {
	room        roomdb.RoomKey
	first, last int64
	n           int
}

// bundleSet is what relates to them, for whoever is in the room and ignores nobody. It holds until something happens in the room.
type bundleSet struct {
	pos    int64 // of the log, as of which it counts
	closed bool  // it is not the same for all
	of     map[int64]*view.Bundle
	size   int64
}

// bundleBudget bounds the sets that a worker keeps, in bytes.
const bundleBudget = 8 << 20

func newBundleSets(reg prometheus.Registerer) *cache.Cache[bundleKey, *bundleSet] {
	return cache.New(cache.Config[bundleKey, *bundleSet]{
		Name: "bundle", Budget: bundleBudget, MaxAge: openingAge, Metrics: reg,
		Weigh: func(_ bundleKey, s *bundleSet) int64 { return s.size },
	})
}

// bundlesOf finds what relates to the events of timelines of rooms that somebody is in (client-server API, "Aggregations of child
// events": for timelines that are limited). Many may be told of the same events after an outage: they are looked at once for all.
func (s *Service) bundlesOf(ctx context.Context, a *asker, pr *prefs, timelines ...[]*roomdb.Event) (view.Bundles, error) {
	found := make(view.Bundles)
	var unknown, own []*roomdb.Event
	sets := make(map[bundleKey]*bundleSet)
	for _, events := range timelines {
		if len(events) == 0 {
			continue
		}
		key := keyOfTimeline(events)
		switch set, ok := s.bundles.Get(key); {
		case len(pr.ignored) > 0:
			own = append(own, events...)
		case !ok || !s.tail.quiet(key.room, set.pos):
			sets[key] = &bundleSet{pos: s.tail.head(key.room.Part), of: make(map[int64]*view.Bundle), size: 100}
			unknown = append(unknown, events...)
		case set.closed:
			own = append(own, events...)
		default:
			set.add(found, events)
		}
	}
	if len(unknown) > 0 {
		bundles, closed, err := view.BundledForAll(ctx, s.rooms, unknown)
		if err != nil {
			return nil, err
		}
		for _, events := range timelines {
			if len(events) == 0 || sets[keyOfTimeline(events)] == nil {
				continue
			}
			key := keyOfTimeline(events)
			set := sets[key]
			if set.closed = closed[key.room]; set.closed {
				own = append(own, events...)
			} else {
				for _, e := range events {
					if b := bundles[e]; b != nil {
						set.of[e.NID] = b
						set.size += 50 + int64(b.Size())
					}
				}
				set.add(found, events)
			}
			s.bundles.Add(key, set)
		}
	}
	if len(own) > 0 {
		bundles, err := view.Bundled(ctx, s.rooms, view.Reader{User: a.who.User, Joined: true}, pr.ignored, own)
		if err != nil {
			return nil, err
		}
		for e, b := range bundles {
			found[e] = b
		}
	}
	return found, nil
}

func keyOfTimeline(events []*roomdb.Event) bundleKey {
	first, last := events[0], events[len(events)-1]
	return bundleKey{roomdb.RoomKey{Part: first.Part, NID: first.RoomNID}, first.NID, last.NID, len(events)}
}

// add adds what relates to the events.
func (s *bundleSet) add(to view.Bundles, events []*roomdb.Event) {
	for _, e := range events {
		if b := s.of[e.NID]; b != nil {
			to[e] = b
		}
	}
}
