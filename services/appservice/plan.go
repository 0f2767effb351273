package appservice

import (
	"context"
	"fmt"
	"time"

	"hanse/pkg/appservice"
	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	logv1 "hanse/proto/log/v1"
)

// item is an entry of the log that waits for services; they share it.
type item struct {
	logPart uint32
	pos     int64
	entry   *logv1.Entry
	came    time.Time
	size    int64
}

// newItem is about an entry. Its size is that of what a transaction has of it, about.
func newItem(q uint32, e *logv1.Entry) *item {
	it := &item{logPart: q, pos: e.Pos, entry: e, came: time.Now(), size: 300}
	if ev := e.GetEvent(); ev != nil {
		it.size += int64(len(ev.Json)) + 300
		it.came = time.UnixMilli(ev.OriginServerTs)
		if now := time.Now(); it.came.After(now) || it.came.Before(now.Add(-maxLagOfClock)) {
			it.came = now
		}
	}
	return it
}

// maxLagOfClock bounds for how much older than its entry in the log an event may say that it is, for measurements.
const maxLagOfClock = time.Minute

// offer is an item and the services that want it.
type offer struct {
	item *item
	to   []*appservice.Service
}

// plan finds out who wants which entries, and returns what gives them to the services that are this worker's.
func (s *Service) plan(ctx context.Context, d bus.Delivery) (func(follow.Hand[*box]), error) {
	m := s.interest.match.Load()
	var offers []offer
	for _, e := range d.Entries {
		services, err := s.interest.of(ctx, m, d.Part, e)
		if err != nil {
			s.interest.forgetPart(d.Part) // some have moved past entries that come again
			return nil, fmt.Errorf("entry %d: %w", e.Pos, err)
		}
		to := wanting(m, services, e)
		if len(to) == 0 {
			continue
		}
		offers = append(offers, offer{newItem(d.Part, e), to})
	}
	if len(offers) == 0 {
		return nil, nil
	}
	return func(h follow.Hand[*box]) {
		for _, o := range offers {
			for _, one := range o.to {
				if b, ours := h.To(partition.Of(one.ID), o.item.pos); ours {
					if st := b.stream(one.ID); st != nil {
						st.offer(o.item)
					}
				}
			}
		}
	}, nil
}

// wanting returns those of some services that want entries of this kind.
func wanting(m *appservice.Matcher, services []int, e *logv1.Entry) []*appservice.Service {
	if len(services) == 0 {
		return nil
	}
	to := make([]*appservice.Service, 0, len(services))
	for _, i := range services {
		one := m.Services()[i]
		switch b := e.Body.(type) {
		case *logv1.Entry_Event:
		case *logv1.Entry_Receipt:
			// Application service API, "Pushing ephemeral data": private receipts are told of users in the namespaces only.
			if !one.ReceiveEphemeral || b.Receipt.Type == "m.read.private" && !one.InterestedInUser(id.User(b.Receipt.UserId)) {
				continue
			}
		case *logv1.Entry_DeviceChange:
			if !one.Encryption {
				continue
			}
		default:
			continue
		}
		to = append(to, one)
	}
	return to
}
