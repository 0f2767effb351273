package timeline

import (
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
	"hanse/services/client/core"
)

// fewMembers is up to how many events an answer with a state is like any other.
const fewMembers = 2000

// A state may have hundreds of thousands of events: answers with one are sent while they are read (httpx.Large).

// sendSteps streams head, what add appends for steps of the entries' events, and tail.
func (c *Timeline) sendSteps(w http.ResponseWriter, r *http.Request, head string, entries iter.Seq2[state.Key, int64], tail string,
	add func(b []byte, nids []int64) ([]byte, error),
) error {
	ctx := r.Context()
	var nids []int64
	for _, nid := range entries {
		nids = append(nids, nid)
	}
	step := add
	if len(nids) > fewMembers {
		leave, err := c.large.Begin(ctx, string(core.Me(r).User))
		if err != nil {
			return err
		}
		defer leave()
		step = func(b []byte, nids []int64) ([]byte, error) {
			done, err := c.large.Step(ctx)
			if err != nil {
				return nil, err
			}
			defer done()
			return add(b, nids)
		}
	}
	s := httpx.NewStream(w)
	return s.Send(func() error {
		s.B = append(s.B, head...)
		err := httpx.StreamList(s, false, view.Steps(nids), step)
		s.B = append(s.B, tail...)
		return err
	})
}

// sendState answers with the events of entries of a room's state between head and tail, those of them whose content is
// wanted; nil for all.
func (c *Timeline) sendState(w http.ResponseWriter, r *http.Request, room *roomdb.Room, head string, entries iter.Seq2[state.Key, int64],
	wanted func(content []byte) bool, tail string,
) error {
	i := core.Me(r)
	l := &view.StateList{
		DB: c.Rooms, Room: room.Key(), RoomID: room.ID, Keep: wanted,
		Format: view.Format{User: i.User, Device: i.Device, WithRoomID: true, Now: time.Now()},
	}
	return c.sendSteps(w, r, head, entries, tail, func(b []byte, nids []int64) ([]byte, error) { return l.Append(r.Context(), b, nids) })
}

// sendJoined answers with the profiles of those who are joined by a state.
func (c *Timeline) sendJoined(w http.ResponseWriter, r *http.Request, room *roomdb.Room, m state.Map) error {
	return c.sendSteps(w, r, `{"joined":{`, m.Type(core.TypeMember), `}}`, func(b []byte, nids []int64) ([]byte, error) {
		return c.appendJoined(r.Context(), room.Key(), b, nids)
	})
}

func (c *Timeline) appendJoined(ctx context.Context, room roomdb.RoomKey, b []byte, nids []int64) ([]byte, error) {
	start := len(b)
	add := func(user, content []byte) {
		if gjson.GetBytes(content, "membership").Str != core.Join {
			return
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = appendProfile(append(append(b, user...), ':'), content)
	}
	var unusual []int64
	err := c.Rooms.EachRaw(ctx, room, nids, func(r *roomdb.Raw) error {
		if s, ok := event.ParseStored(r.JSON); ok && r.RedactedBy == 0 {
			add(s.StateKey, s.Content)
		} else {
			unusual = append(unusual, r.NID)
		}
		return nil
	})
	if err != nil || len(unusual) == 0 {
		return b, err
	}
	events, err := c.Rooms.EventsOnce(ctx, room.Part, unusual)
	for _, e := range events {
		add(canonjson.AppendString(nil, *e.StateKey), e.Content)
	}
	return b, err
}

// appendProfile appends the profile in the content of a member event; other servers may have written anything there. What
// is not set is null, as with Synapse: there are clients that do not do without.
func appendProfile(b, content []byte) []byte {
	b = append(b, `{"display_name":`...)
	b = appendText(b, gjson.GetBytes(content, "displayname"))
	b = append(b, `,"avatar_url":`...)
	b = appendText(b, gjson.GetBytes(content, "avatar_url"))
	return append(b, '}')
}

func appendText(b []byte, v gjson.Result) []byte {
	if v.Type != gjson.String {
		return append(b, "null"...)
	}
	return append(b, v.Raw...)
}
