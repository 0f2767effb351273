package auth

import (
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// checkCreate is rule 1.
func (c *check) checkCreate() *Error {
	if len(c.ev.PrevEvents) > 0 {
		return c.reject(c.n.create(1), "the create event has prev_events")
	}
	if err := c.checkCreateRoom(); err != nil {
		return err
	}
	content, ok := object(c.ev.Content)
	if !ok {
		return c.reject(c.n.create(3), "content is not an object")
	}
	if raw, ok := content.Get("room_version"); ok {
		v, ok := text(raw)
		if !ok {
			return c.reject(c.n.create(3), "room_version is not a string")
		}
		if _, ok := roomversion.Get(v); !ok {
			return c.reject(c.n.create(3), "room version %q is not known", v)
		}
	}
	if _, ok := content.Get("creator"); !ok && !c.rules.ImplicitCreator {
		return c.reject(c.n.create(4), "no creator")
	}
	if c.rules.PrivilegedCreators {
		additional, _ := content.Get("additional_creators")
		return c.checkAdditionalCreators(additional)
	}
	return nil
}

// checkCreateRoom is rule 1.2.
func (c *check) checkCreateRoom() *Error {
	if c.rules.RoomIDIsCreateHash {
		if hasRoomID(c.ev) {
			return c.reject(c.n.create(2), "the create event has a room_id")
		}
		return nil
	}
	if s := c.ev.RoomID.Server(); s == "" || s != c.ev.Sender.Server() {
		return c.reject(c.n.create(2), "room %s is not of the sender's server %s", c.ev.RoomID, c.ev.Sender.Server())
	}
	return nil
}

// checkAdditionalCreators is rule 1.4 of version 12 (MSC4289).
func (c *check) checkAdditionalCreators(raw []byte) *Error {
	if len(raw) == 0 {
		return nil
	}
	creators, ok := list(raw)
	if !ok {
		return c.reject(c.n.create(4), "additional_creators is not an array")
	}
	for _, raw := range creators {
		s, ok := text(raw)
		if !ok {
			return c.reject(c.n.create(4), "additional_creators has an element that is not a string")
		}
		if _, err := id.ParseUser(s); err != nil {
			return c.reject(c.n.create(4), "additional_creators: %v", err)
		}
	}
	return nil
}
