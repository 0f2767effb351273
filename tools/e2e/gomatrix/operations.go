//go:build goolm

package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// args are the arguments of all operations; each takes those that it needs.
type args struct {
	Room, User, Device, Event, Type, Key, Reason, Alias, Server, Name, Status, Password, Recovery string

	Via     []string
	Content json.RawMessage
	Typing  bool
	Limit   int
}

type operation func(ctx context.Context, p *person, in json.RawMessage) (any, error)

// op adapts an operation with arguments.
func op(f func(ctx context.Context, p *person, a args) (any, error)) operation {
	return func(ctx context.Context, p *person, in json.RawMessage) (any, error) {
		return with(in, func(a args) (any, error) { return f(ctx, p, a) })
	}
}

var operations = map[string]operation{
	"start": op(func(ctx context.Context, p *person, _ args) (any, error) { return nil, p.start(ctx) }),
	"stop": op(func(_ context.Context, p *person, _ args) (any, error) {
		if p.stopSync == nil {
			return nil, errors.New("not started")
		}
		p.stopSync()
		return nil, nil
	}),
	"logout": op(func(ctx context.Context, p *person, _ args) (any, error) {
		if p.stopSync != nil {
			p.stopSync()
		}
		return only(p.client.Logout(ctx))
	}),

	"create_room": op(createRoom),
	"join": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.JoinRoom(ctx, a.Room, &mautrix.ReqJoinRoom{Via: a.Via, Reason: a.Reason})
	}),
	"knock": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.KnockRoom(ctx, a.Room, &mautrix.ReqKnockRoom{Via: a.Via, Reason: a.Reason})
	}),
	"invite": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.InviteUser(ctx, id.RoomID(a.Room), &mautrix.ReqInviteUser{UserID: id.UserID(a.User), Reason: a.Reason}))
	}),
	"leave": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.LeaveRoom(ctx, id.RoomID(a.Room), &mautrix.ReqLeave{Reason: a.Reason}))
	}),
	"forget": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.ForgetRoom(ctx, id.RoomID(a.Room)))
	}),
	"kick": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.KickUser(ctx, id.RoomID(a.Room), &mautrix.ReqKickUser{UserID: id.UserID(a.User), Reason: a.Reason}))
	}),
	"ban": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.BanUser(ctx, id.RoomID(a.Room), &mautrix.ReqBanUser{UserID: id.UserID(a.User), Reason: a.Reason}))
	}),
	"unban": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.UnbanUser(ctx, id.RoomID(a.Room), &mautrix.ReqUnbanUser{UserID: id.UserID(a.User), Reason: a.Reason}))
	}),
	"members": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.JoinedMembers(ctx, id.RoomID(a.Room))
	}),

	"send": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.SendMessageEvent(ctx, id.RoomID(a.Room), event.Type{Type: a.Type, Class: event.MessageEventType}, a.Content)
	}),
	"set_state": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.SendStateEvent(ctx, id.RoomID(a.Room), event.Type{Type: a.Type, Class: event.StateEventType}, a.Key, a.Content)
	}),
	"redact": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.RedactEvent(ctx, id.RoomID(a.Room), id.EventID(a.Event), mautrix.ReqRedact{Reason: a.Reason})
	}),
	"receipt": op(func(ctx context.Context, p *person, a args) (any, error) {
		return nil, p.client.MarkRead(ctx, id.RoomID(a.Room), id.EventID(a.Event))
	}),
	"typing": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.UserTyping(ctx, id.RoomID(a.Room), a.Typing, 30*time.Second))
	}),
	"history": op(history),

	"to_device": op(func(ctx context.Context, p *person, a args) (any, error) {
		content := &event.Content{VeryRaw: a.Content}
		return only(p.client.SendToDevice(ctx, event.Type{Type: a.Type, Class: event.ToDeviceEventType}, &mautrix.ReqSendToDevice{
			Messages: map[id.UserID]map[id.DeviceID]*event.Content{id.UserID(a.User): {id.DeviceID(a.Device): content}}}))
	}),
	"presence": op(func(ctx context.Context, p *person, a args) (any, error) {
		p.client.SyncPresence = event.Presence(a.Name)
		return nil, p.client.SetPresence(ctx, mautrix.ReqPresence{Presence: event.Presence(a.Name), StatusMsg: a.Status})
	}),
	"display_name": op(func(ctx context.Context, p *person, a args) (any, error) {
		return nil, p.client.SetDisplayName(ctx, a.Name)
	}),
	"profile": op(func(ctx context.Context, p *person, a args) (any, error) {
		resp, err := p.client.GetDisplayName(ctx, id.UserID(a.User))
		return resp, err
	}),
	"set_alias": op(func(ctx context.Context, p *person, a args) (any, error) {
		return only(p.client.CreateAlias(ctx, id.RoomAlias(a.Alias), id.RoomID(a.Room)))
	}),
	"resolve": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.ResolveAlias(ctx, id.RoomAlias(a.Alias))
	}),
	"public_rooms": op(func(ctx context.Context, p *person, a args) (any, error) {
		return p.client.PublicRooms(ctx, &mautrix.ReqPublicRooms{Server: a.Server, Limit: 100})
	}),

	"cross_sign": op(crossSign),
	"verify_with": op(func(ctx context.Context, p *person, a args) (any, error) {
		return nil, p.mach.VerifyWithRecoveryKey(ctx, a.Recovery)
	}),
	"trusts": op(trusts),
}

// only drops an answer that says nothing.
func only[T any](_ T, err error) (any, error) { return nil, err }

func createRoom(ctx context.Context, p *person, a args) (any, error) {
	var req mautrix.ReqCreateRoom
	if err := json.Unmarshal(a.Content, &req); err != nil {
		return nil, err
	}
	for _, e := range req.InitialState {
		e.Type.Class = event.StateEventType
		if err := e.Content.ParseRaw(e.Type); err != nil {
			return nil, err
		}
	}
	return p.client.CreateRoom(ctx, &req)
}

// history reads back from the newest event and returns up to limit events, oldest first.
func history(ctx context.Context, p *person, a args) (any, error) {
	var notes []note
	from := ""
	for len(notes) < a.Limit {
		page, err := p.client.Messages(ctx, id.RoomID(a.Room), from, "", mautrix.DirectionBackward, nil, 50)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Chunk {
			e.RoomID = id.RoomID(a.Room)
			notes = append(notes, p.past(ctx, e))
		}
		if page.End == "" || page.End == from {
			break
		}
		from = page.End
	}
	for i, j := 0, len(notes)-1; i < j; i, j = i+1, j-1 {
		notes[i], notes[j] = notes[j], notes[i]
	}
	return map[string]any{"events": notes}, nil
}

// past decrypts an event of the history if its key is there.
func (p *person) past(ctx context.Context, e *event.Event) note {
	n := p.noted(e, "timeline")
	if e.Type.Type != event.EventEncrypted.Type || e.StateKey != nil || p.mach == nil {
		return n
	}
	e.Type.Class = event.MessageEventType
	if err := e.Content.ParseRaw(e.Type); err != nil {
		return n // a redacted one has no ciphertext
	}
	if plain, err := p.mach.DecryptMegolmEvent(ctx, e); err == nil {
		n.Type, n.Content, n.Decrypted = plain.Type.Type, plain.Content.VeryRaw, true
	}
	return n
}

// crossSign makes and publishes the person's cross-signing keys and signs this device with them.
func crossSign(ctx context.Context, p *person, a args) (any, error) {
	recovery, _, err := p.mach.GenerateAndUploadCrossSigningKeysWithPassword(ctx, a.Password, "")
	if err != nil {
		return nil, err
	}
	if err := p.mach.SignOwnDevice(ctx, p.mach.OwnIdentity()); err != nil {
		return nil, err
	}
	return map[string]string{"recovery": recovery}, p.mach.SignOwnMasterKey(ctx)
}

// trusts reports whether a device is signed by its owner's cross-signing keys, asking the server anew.
func trusts(ctx context.Context, p *person, a args) (any, error) {
	devices, err := p.mach.FetchKeys(ctx, []id.UserID{id.UserID(a.User)}, true)
	if err != nil {
		return nil, err
	}
	device := devices[id.UserID(a.User)][id.DeviceID(a.Device)]
	if device == nil {
		return map[string]bool{"known": false}, nil
	}
	state, err := p.mach.ResolveTrustContext(ctx, device)
	return map[string]bool{"known": true, "signed": state >= id.TrustStateCrossSignedUntrusted}, err
}
