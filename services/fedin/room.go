package fedin

import (
	"context"
	"errors"

	"hanse/pkg/matrix/acl"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// aclKey names an event as it is: a redaction leaves nothing of an access control list.
type aclKey struct {
	part     uint32
	nid      int64
	redacted bool
}

type aclOf struct{ list *acl.List }

// acl returns the room's access control list; nil if it has none.
func (f *Fedin) acl(ctx context.Context, room *roomdb.Room) (*acl.List, error) {
	m, err := f.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	e, err := f.rooms.StateEvent(ctx, room.Part, m, acl.EventType, "")
	if err != nil || e == nil {
		return nil, err
	}
	key := aclKey{room.Part, e.NID, e.RedactedBy != 0}
	if l, ok := f.acls.Get(key); ok {
		return l.list, nil
	}
	l := &aclOf{acl.Parse(e.Content)}
	f.acls.Add(key, l)
	return l.list, nil
}

// admitted checks a server against the room's access control list (server-server API, "Server Access Control Lists").
func (f *Fedin) admitted(ctx context.Context, room *roomdb.Room, server id.Server) error {
	list, err := f.acl(ctx, room)
	if err != nil {
		return err
	}
	if !list.Allows(server) {
		return merr.Forbidden("Server is banned from room")
	}
	return nil
}

// openRoom returns a room of ours that the server is not kept out of.
func (f *Fedin) openRoom(q *request) (*roomdb.Room, error) {
	roomID, err := id.ParseRoom(q.param("roomId"))
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	room, err := f.rooms.Room(q.Context(), roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, merr.NotFound("Not an active room on this server")
	}
	if err != nil {
		return nil, err
	}
	return room, f.admitted(q.Context(), room, q.origin)
}

// memberRoom returns a room that the server has a joined member in. Others learn nothing of it, not even whether there
// is one.
func (f *Fedin) memberRoom(q *request) (*roomdb.Room, error) {
	room, err := f.openRoom(q)
	if merr.HasCode(err, merr.CodeNotFound) {
		return nil, errNotInRoom
	}
	if err != nil {
		return nil, err
	}
	return room, f.inRoom(q.Context(), room, q.origin)
}

var errNotInRoom = merr.Forbidden("Host not in room.")

func (f *Fedin) inRoom(ctx context.Context, room *roomdb.Room, server id.Server) error {
	in, err := f.rooms.InRoom(ctx, room.Part, room.NID, server)
	if err != nil {
		return err
	}
	if !in {
		return errNotInRoom
	}
	return nil
}
