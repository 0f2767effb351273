package auth

import (
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// CheckAuthEvents applies the rule that considers an event's auth_events: 2 of
// versions 1 to 11, 3 of version 12 (and rule 2 there, as far as the room ID
// tells). authEvents are the events that ev.AuthEvents names; at most the first
// of opts is used, for [Options.Rejected]. A refusal is an [*Error].
//
// Fetching is the caller's: an auth event that nobody has makes the event
// unfit to be judged, which is not a refusal.
func CheckAuthEvents(ev *event.PDU, authEvents []*event.PDU, opts ...Options) error {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	if err := checkAuthEvents(ev, authEvents, o); err != nil {
		return err
	}
	return nil
}

func checkAuthEvents(ev *event.PDU, authEvents []*event.PDU, opts Options) *Error {
	n := numbering{ev.Rules}
	if ev.Type == typeCreate {
		// Rule 1 allows it without considering auth events; that it has none
		// is the event format's business.
		return nil
	}
	if ev.Rules.RoomIDIsCreateHash && opts.Rejected != nil && opts.Rejected(CreateEventID(ev.RoomID)) {
		return reject(ev.Rules, n.roomID(), "the create event of %s was rejected", ev.RoomID)
	}
	if err := checkDuplicates(ev, authEvents); err != nil {
		return err
	}
	var buf [6]event.Tuple
	selected := appendNeeded(buf[:0], ev)
	for _, a := range authEvents {
		if a.StateKey == nil || !slices.Contains(selected, a.Tuple()) {
			return reject(ev.Rules, n.authEvents(2), "%s (%s) is not among the events to select", a.ID, a.Type)
		}
	}
	if opts.Rejected != nil {
		for _, a := range authEvents {
			if opts.Rejected(a.ID) {
				return reject(ev.Rules, n.authEvents(3), "%s was rejected", a.ID)
			}
		}
	}
	if !ev.Rules.RoomIDIsCreateHash && !slices.ContainsFunc(authEvents, isCreate) {
		return reject(ev.Rules, n.authEventsCreate(), "no m.room.create event")
	}
	for _, a := range authEvents {
		if a.RoomID != ev.RoomID {
			return reject(ev.Rules, n.authEventsRoom(), "%s is of room %s, not of %s", a.ID, a.RoomID, ev.RoomID)
		}
	}
	return nil
}

// OtherRoom is the refusal of an event that cites an event of another room, for callers that do not have that one.
func OtherRoom(ev *event.PDU, cited id.Event, room id.Room) error {
	return reject(ev.Rules, numbering{ev.Rules}.authEventsRoom(), "%s is of room %s, not of %s", cited, room, ev.RoomID)
}

func isCreate(ev *event.PDU) bool { return ev.Type == typeCreate }

// checkDuplicates is the first step: one entry for a type and state key.
func checkDuplicates(ev *event.PDU, authEvents []*event.PDU) *Error {
	seen := make(map[event.Tuple]*event.PDU, len(authEvents))
	for _, a := range authEvents {
		if a.StateKey == nil {
			continue // refused by the second step
		}
		if other := seen[a.Tuple()]; other != nil {
			return reject(ev.Rules, numbering{ev.Rules}.authEvents(1), "%s and %s are both %s %q", other.ID, a.ID, a.Type, *a.StateKey)
		}
		seen[a.Tuple()] = a
	}
	return nil
}

// hasRoomID tells whether a create event names a room, which those of version
// 12 must not: the parsed RoomID is filled in from the event ID.
func hasRoomID(ev *event.PDU) bool {
	top, _ := object(ev.JSON)
	_, ok := top.Get("room_id")
	return ok
}
