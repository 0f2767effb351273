package access

import (
	"context"
	"crypto/rand"
	"encoding/json"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomowner"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
)

// NewCause is a new cause: requests without a transaction id are repeated only by the router.
func NewCause(user id.User) *roomv1.Cause {
	return &roomv1.Cause{UserId: string(user), Key: rand.Text()}
}

// StateIntent is a state event that a local user wants to send.
func StateIntent(sender id.User, typ, key string, content any) *roomv1.EventIntent {
	raw, ok := content.(json.RawMessage)
	if !ok {
		var err error
		if raw, err = json.Marshal(content); err != nil {
			panic(err) // maps of strings, numbers and valid JSON
		}
	}
	return &roomv1.EventIntent{Type: typ, StateKey: &key, Content: raw, Sender: string(sender)}
}

// Send has the owner of a room add an event, and returns its id.
func (c *Access) Send(ctx context.Context, room id.Room, intent *roomv1.EventIntent, cause *roomv1.Cause) (string, error) {
	if intent.Type == core.TypeCreate { // MSC4291: a room has one, which is there before the room is
		return "", merr.InvalidParam("A room that exists cannot be created")
	}
	var resp *roomv1.SendResponse
	err := roomowner.Call(ctx, c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) (err error) {
		resp, err = rc.Send(ctx, &roomv1.SendRequest{RoomId: string(room), Events: []*roomv1.EventIntent{intent}, Cause: cause})
		return err
	})
	if err != nil {
		if intent.Type == core.TypeRedaction {
			return "", err // what is not found may be the event to redact
		}
		return "", RoomGone(err)
	}
	return resp.EventIds[0], nil
}

// RoomGone tells somebody who wants to act in a room that we do not know, or are not in, what those hear who are not in
// it: 403.
func RoomGone(err error) error {
	if merr.HasCode(err, merr.CodeNotFound) {
		return ErrNotInRoom()
	}
	return err
}
