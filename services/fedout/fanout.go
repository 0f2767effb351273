package fedout

import (
	"context"
	"fmt"
	"sync/atomic"

	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/outgoing"
	"hanse/pkg/partition"
	logv1 "hanse/proto/log/v1"
)

// item is an entry of the log that waits for destinations; they share it.
type item struct {
	logPart uint32
	pos     int64
	entry   *logv1.Entry
	// origin is the local server that sends it.
	origin id.Server
	// many says that it is for many servers.
	many     bool
	size     int64
	refs     atomic.Int32
	arrivals arrivals
}

// event returns the item's event, nil for other entries.
func (it *item) event() *logv1.Event { return it.entry.GetEvent() }

// offer is an item and who must get it. notInRoom are servers that are not in the room but get the item, too.
type offer struct {
	item      *item
	to        []target
	notInRoom []target
}

// plan finds out who must get which entries, and returns what gives them to the destinations that this worker has.
func (f *sender) plan(ctx context.Context, d bus.Delivery) (func(follow.Hand[*destPart]), error) {
	var offers []offer
	for _, e := range d.Entries {
		key := roomKey{d.Part, e.RoomNid}
		o, err := f.planEntry(ctx, key, e)
		if err != nil {
			f.rooms.forgetPart(d.Part) // some have moved past entries that come again
			return nil, fmt.Errorf("entry %d: %w", e.Pos, err)
		}
		if len(o.to) > 0 || len(o.notInRoom) > 0 {
			offers = append(offers, o)
		}
	}
	return func(h follow.Hand[*destPart]) {
		for _, o := range offers {
			o.give(h, o.to, true)
			o.give(h, o.notInRoom, false)
		}
	}, nil
}

// give offers the item to those of some destinations that are ours and have not got it before.
func (o *offer) give(h follow.Hand[*destPart], to []target, inRoom bool) {
	for _, t := range to {
		if p, ok := h.To(t.part, o.item.pos); ok {
			p.dest(t.server).offer(o.item, inRoom)
		}
	}
}

func (f *sender) planEntry(ctx context.Context, key roomKey, e *logv1.Entry) (offer, error) {
	f.note(key, e)
	if !outgoing.Leaves(e, f.isLocal) {
		return offer{}, nil
	}
	switch b := e.Body.(type) {
	case *logv1.Entry_Event:
		return f.planEvent(ctx, key, e, b.Event)
	case *logv1.Entry_Receipt:
		return f.planEDU(ctx, key, e, id.User(b.Receipt.UserId), len(b.Receipt.UserId)+len(b.Receipt.EventId))
	case *logv1.Entry_DeviceChange:
		return f.planEDU(ctx, key, e, id.User(b.DeviceChange.UserId), len(b.DeviceChange.UserId)+len(b.DeviceChange.DeviceId))
	case *logv1.Entry_Filled:
		return f.planFilled(ctx, key, e)
	}
	return offer{}, nil
}

// note brings what the worker remembers of rooms and users up to an entry.
func (f *sender) note(key roomKey, e *logv1.Entry) {
	switch b := e.Body.(type) {
	case *logv1.Entry_Event:
		f.rooms.advance(key, b.Event)
		if b.Event.Membership != "" && b.Event.StateKey != nil {
			f.joined.Remove(id.User(*b.Event.StateKey))
			f.greet(key, e.Pos, b.Event)
		}
	case *logv1.Entry_Filled:
		f.rooms.forget(key) // until now they were those that we were told of when we joined
		for _, m := range b.Filled.Moved {
			f.joined.Remove(id.User(m.UserId))
		}
	}
}

// planEvent sends an event to the servers in the room after it, but for the sender's own: a join that came by
// send_join is ours to spread. A local join through another server is not, but tells whose devices they must hear of.
func (f *sender) planEvent(ctx context.Context, key roomKey, e *logv1.Entry, ev *logv1.Event) (offer, error) {
	rs, err := f.rooms.at(ctx, key, e.Pos)
	if err != nil {
		return offer{}, err
	}
	from := id.User(ev.Sender).Server()
	o := offer{to: rs.remote}
	for i, t := range o.to {
		if t.server == from {
			o.to = append(append([]target(nil), o.to[:i]...), o.to[i+1:]...)
			break
		}
	}
	for _, name := range ev.AlsoTo {
		server := id.Server(name)
		if server != from && rs.counts[server] <= 0 && !f.isLocal(server) {
			o.notInRoom = append(o.notInRoom, target{server, partition.Of(name)})
		}
	}
	origin := from
	if !f.isLocal(from) {
		if origin = rs.ours; origin == "" {
			origin = f.s.servers.Default()
		}
	}
	o.item = &item{logPart: key.part, pos: e.Pos, entry: e, origin: origin, many: len(o.to) > manyServers, size: int64(len(ev.Json)) + 600}
	return o, nil
}

func (f *sender) planEDU(ctx context.Context, key roomKey, e *logv1.Entry, user id.User, size int) (offer, error) {
	if !f.isLocal(user.Server()) {
		return offer{}, nil
	}
	rs, err := f.rooms.at(ctx, key, e.Pos)
	if err != nil {
		return offer{}, err
	}
	return offer{to: rs.remote, item: &item{logPart: key.part, pos: e.Pos, entry: e, origin: user.Server(),
		many: len(rs.remote) > manyServers, size: int64(size) + 300}}, nil
}
