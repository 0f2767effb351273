package fedin

import (
	"context"
	"encoding/json"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

const (
	// maxMessages bounds the messages of one m.direct_to_device.
	maxMessages = 10_000
	// maxMessageID bounds its id; the specification says 32 codepoints, others send more.
	maxMessageID = 255
	// maxSharedRooms bounds the rooms of each shard that are told of a changed device.
	maxSharedRooms = 10_000
	// statesAtOnce is how many states are loaded together, roomsPerCall how many rooms an owner is told of at once.
	statesAtOnce, roomsPerCall = 256, 500
)

// receiveToDevice takes m.direct_to_device (server-server API, "Send-to-device messaging"). A message's id makes it the
// same message however often it comes.
func (f *Fedin) receiveToDevice(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var m struct {
		Sender    string                                   `json:"sender"`
		Type      string                                   `json:"type"`
		MessageID string                                   `json:"message_id"`
		Messages  map[string]map[id.Device]json.RawMessage `json:"messages"`
	}
	if err := decodeEDU(content, &m); err != nil {
		return err
	}
	sender, err := userOf(m.Sender, origin)
	if err != nil {
		return err
	}
	if m.Type == "" || len(m.Type) > 255 || m.MessageID == "" || len(m.MessageID) > maxMessageID || !plain(m.Type, m.MessageID) {
		return ignored("bad type or message_id")
	}
	var messages []userdb.ToDevice
	for text, devices := range m.Messages {
		u, err := id.ParseUser(text)
		if err != nil || !f.isLocal(u) {
			continue
		}
		for device, body := range devices {
			if _, err := id.ParseDevice(string(device)); err != nil {
				return ignored(err.Error())
			}
			if len(body) == 0 || body[0] != '{' || len(messages) == maxMessages {
				continue
			}
			messages = append(messages, userdb.ToDevice{User: u, Device: device, Sender: sender, Type: m.Type, Content: body})
		}
	}
	if len(messages) == 0 {
		return ignored("no messages for users of ours")
	}
	return f.users.SendToDevice(ctx, messages, &userdb.Txn{User: sender, Endpoint: "m.direct_to_device", ID: m.MessageID})
}

// deviceChanges collects whose devices changed, so that the rooms are looked through once for each transaction.
type deviceChanges struct {
	origin  id.Server
	changes []deviceChange
}

type deviceChange struct {
	user   id.User
	device id.Device // empty for cross-signing keys
	stream int64
}

func newDeviceChanges(origin id.Server) *deviceChanges { return &deviceChanges{origin: origin} }

// add notes a change; another one of the same device is the same to everybody.
func (c *deviceChanges) add(user id.User, device id.Device, stream int64) {
	for i := range c.changes {
		if c.changes[i].user == user && c.changes[i].device == device {
			c.changes[i].stream = max(c.changes[i].stream, stream)
			return
		}
	}
	c.changes = append(c.changes, deviceChange{user, device, stream})
}

// receiveDeviceUpdate takes m.device_list_update (server-server API, "Device Management").
func (f *Fedin) receiveDeviceUpdate(ctx context.Context, origin id.Server, content json.RawMessage, changed *deviceChanges) error {
	var u deviceUpdate
	if err := decodeEDU(content, &u); err != nil {
		return err
	}
	user, err := compliantUserOf(u.User, origin)
	if err != nil {
		return err
	}
	if _, err := id.ParseDevice(string(u.Device)); err != nil {
		return ignored(err.Error())
	}
	known := false
	err = f.users.UpdateRemoteList(ctx, user, func(old userdb.RemoteList) (userdb.RemoteList, bool) {
		if !old.Followed() {
			return old, false // nobody asked for the user's devices yet
		}
		if known = u.repeats(old); known {
			return old, false
		}
		return u.apply(old), true
	})
	if err != nil {
		return err
	}
	if known {
		return ignored("a repeated update")
	}
	changed.add(user, u.Device, u.Stream)
	return nil
}

// receiveSigningKeys takes m.signing_key_update (server-server API, "End-to-End Encryption"). The list is fetched anew:
// the update says nothing of its place among the others.
func (f *Fedin) receiveSigningKeys(ctx context.Context, origin id.Server, content json.RawMessage, changed *deviceChanges) error {
	var u signingKeys
	if err := decodeEDU(content, &u); err != nil {
		return err
	}
	user, err := compliantUserOf(u.User, origin)
	if err != nil {
		return err
	}
	known := false
	err = f.users.UpdateRemoteList(ctx, user, func(old userdb.RemoteList) (userdb.RemoteList, bool) {
		if known = u.repeats(old); known || !old.Followed() {
			return old, false
		}
		old.Stale = true
		old.News++
		return old, true
	})
	if err != nil {
		return err
	}
	if known {
		return ignored("a repeated update")
	}
	changed.add(user, "", 0)
	return nil
}

// tellOfDevices notes the changes in the logs of the rooms that the users share with us: clients there ask anew.
func (f *Fedin) tellOfDevices(ctx context.Context, c *deviceChanges) error {
	if len(c.changes) == 0 {
		return nil
	}
	rooms, err := f.rooms.SharedRooms(ctx, c.origin, maxSharedRooms)
	if err != nil {
		return err
	}
	if len(rooms) >= maxSharedRooms {
		f.metrics.cutLists.Inc()
	}
	users := make([]id.User, 0, len(c.changes))
	for _, ch := range c.changes {
		if !slices.Contains(users, ch.user) {
			users = append(users, ch.user)
		}
	}
	in := make(map[id.User][]*roomdb.Room, len(users))
	for some := range slices.Chunk(rooms, statesAtOnce) {
		if err := f.joinedIn(ctx, some, users, in); err != nil {
			return err
		}
	}
	for _, ch := range c.changes {
		if err := f.tellRooms(ctx, ch, in[ch.user]); err != nil {
			return err
		}
	}
	return nil
}

// joinedIn finds those of some rooms that users are in. Their server is in all of them: while we lack members of a room, who
// is not known may be one of those.
func (f *Fedin) joinedIn(ctx context.Context, rooms []*roomdb.Room, users []id.User, in map[id.User][]*roomdb.Room) error {
	refs := make([]state.Ref, len(rooms))
	for i, r := range rooms {
		refs[i] = state.Ref{Part: r.Part, SID: r.SID}
	}
	states, err := f.rooms.States(ctx, refs)
	if err != nil {
		return err
	}
	wanted := make(map[uint32][]int64)
	for i, r := range rooms {
		for _, u := range users {
			if nid, ok := states[refs[i]].Get(memberKey(u)); ok {
				wanted[r.Part] = append(wanted[r.Part], nid)
			}
		}
	}
	events, err := f.rooms.EventsIn(ctx, wanted)
	if err != nil {
		return err
	}
	for i, r := range rooms {
		for _, u := range users {
			nid, ok := states[refs[i]].Get(memberKey(u))
			if e := events[r.Part][nid]; ok && e != nil && e.Membership() == "join" || !ok && r.Partial() {
				in[u] = append(in[u], r)
			}
		}
	}
	return nil
}

func (f *Fedin) tellRooms(ctx context.Context, ch deviceChange, rooms []*roomdb.Room) error {
	byPart := make(map[uint32][]string)
	for _, r := range rooms {
		byPart[r.Part] = append(byPart[r.Part], string(r.ID))
	}
	for part, ids := range byPart {
		for some := range slices.Chunk(ids, roomsPerCall) {
			req := &roomv1.DeviceChangesRequest{Part: part, RoomIds: some, UserId: string(ch.user), StreamId: ch.stream, DeviceId: string(ch.device)}
			err := roomowner.CallPart(ctx, f.router, part, func(ctx context.Context, c roomv1.RoomClient) error {
				_, err := c.DeviceChanges(ctx, req)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
