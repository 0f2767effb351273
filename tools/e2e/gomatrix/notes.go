//go:build goolm

package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
)

// note is a line that nobody asked for: what a sync brought.
type note struct {
	As        string          `json:"as"`
	Kind      string          `json:"note"` // timeline, state, invite, knock, leave, ephemeral, presence, to_device, account_data, devices, undecryptable
	Room      string          `json:"room,omitempty"`
	Type      string          `json:"type,omitempty"`
	Sender    string          `json:"sender,omitempty"`
	Event     string          `json:"event,omitempty"`
	StateKey  *string         `json:"state_key,omitempty"`
	Content   json.RawMessage `json:"content,omitempty"`
	Decrypted bool            `json:"decrypted,omitempty"`
}

func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(err.Error()) // a string always can be
	}
	return b
}

// kinds names where a sync answer had an event.
var kinds = []struct {
	source event.Source
	kind   string
}{
	{event.SourceToDevice, "to_device"}, {event.SourcePresence, "presence"}, {event.SourceEphemeral, "ephemeral"},
	{event.SourceAccountData, "account_data"}, {event.SourceInvite, "invite"}, {event.SourceLeave, "leave"},
	{event.SourceTimeline, "timeline"}, {event.SourceState, "state"},
}

func kindOf(s event.Source) string {
	for _, k := range kinds {
		if s&k.source != 0 {
			return k.kind
		}
	}
	return "?"
}

func (p *person) noted(e *event.Event, kind string) note {
	content := e.Content.VeryRaw
	if content == nil {
		content = raw(e.Content.Raw)
	}
	return note{As: p.as, Kind: kind, Room: e.RoomID.String(), Type: e.Type.Type, Sender: e.Sender.String(), Event: e.ID.String(),
		StateKey: e.StateKey, Content: content}
}

// note reports an event of a sync, decrypted if it can be.
func (p *person) note(ctx context.Context, e *event.Event) {
	n := p.noted(e, kindOf(e.Mautrix.EventSource))
	if e.Type != event.EventEncrypted {
		write(n)
		return
	}
	go func() { // the key may be in a later sync
		plain, err := p.decrypt(ctx, e, 20*time.Second)
		if err != nil {
			n.Kind, n.Content = "undecryptable", raw(err.Error())
			write(n)
			return
		}
		n.Type, n.Content, n.Decrypted = plain.Type.Type, plain.Content.VeryRaw, true
		write(n)
	}()
}

// decrypt decrypts an event, waiting for its key and then asking the own other devices and the sender for it.
func (p *person) decrypt(ctx context.Context, e *event.Event, patience time.Duration) (*event.Event, error) {
	plain, err := p.mach.DecryptMegolmEvent(ctx, e)
	if !errors.Is(err, crypto.ErrNoSessionFound) {
		return plain, err
	}
	content := e.Content.AsEncrypted()
	if !p.mach.WaitForSession(ctx, e.RoomID, content.SenderKey, content.SessionID, patience/10) {
		p.client.Crypto.RequestSession(ctx, e.RoomID, content.SenderKey, content.SessionID, e.Sender, "*")
		p.mach.WaitForSession(ctx, e.RoomID, content.SenderKey, content.SessionID, patience)
	}
	return p.mach.DecryptMegolmEvent(ctx, e)
}

// noteLists reports what of a sync answer is no event, and that a sync was handled.
func (p *person) noteLists(_ context.Context, resp *mautrix.RespSync, since string) bool {
	if len(resp.DeviceLists.Changed)+len(resp.DeviceLists.Left) > 0 {
		write(note{As: p.as, Kind: "devices", Content: raw(resp.DeviceLists)})
	}
	for room := range resp.Rooms.Leave {
		write(note{As: p.as, Kind: "left_room", Room: room.String()})
	}
	for room := range resp.Rooms.Knock {
		write(note{As: p.as, Kind: "knocked_room", Room: room.String()})
	}
	if since == "" {
		close(p.synced)
	}
	return true
}
