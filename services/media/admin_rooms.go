package media

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
)

// roomEvents is how many events of a room are read at a time.
const roomEvents = 500

// parseMXC reads an mxc URI.
func parseMXC(uri string) (mediastore.ID, bool) {
	rest, ok := strings.CutPrefix(uri, "mxc://")
	origin, media, slash := strings.Cut(rest, "/")
	if !ok || !slash {
		return mediastore.ID{}, false
	}
	media, _, _ = strings.Cut(media, "?")
	media, _, _ = strings.Cut(media, "#")
	i, err := mediastore.ParseID(origin, media)
	return i, err == nil
}

// mediaIn returns what an event names: content.url and its thumbnail, as in Synapse. What encrypted events name nobody sees here.
func mediaIn(content []byte) (found []mediastore.ID) {
	var c struct {
		URL  any `json:"url"`
		Info any `json:"info"`
	}
	if json.Unmarshal(content, &c) != nil {
		return nil // not an object
	}
	info, _ := c.Info.(map[string]any)
	for _, uri := range []any{c.URL, info["thumbnail_url"]} {
		text, _ := uri.(string)
		if i, ok := parseMXC(text); ok {
			found = append(found, i)
		}
	}
	return found
}

// eachInRoom calls each with the media that the events of a room name, once each, from the newest event on.
func (m *Media) eachInRoom(ctx context.Context, room id.Room, each func(mediastore.ID) error) error {
	r, err := m.rooms.Room(ctx, room)
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Room not found")
	}
	if err != nil {
		return err
	}
	named := true
	q := roomdb.TimelineQuery{After: roomdb.Start, UpTo: roomdb.End, Backwards: true, Limit: roomEvents, Filter: roomdb.Filter{ContainsURL: &named}}
	seen := make(map[mediastore.ID]bool)
	for {
		events, err := m.rooms.Timeline(ctx, r.Part, r.NID, q)
		if err != nil {
			return err
		}
		for _, e := range events {
			for _, i := range mediaIn(e.Content) {
				if seen[i] {
					continue
				}
				seen[i] = true
				if err := each(i); err != nil {
					return err
				}
			}
		}
		if len(events) < roomEvents {
			return nil
		}
		q.UpTo = events[len(events)-1].Place() - 1
	}
}

func pathRoom(r *http.Request) (id.Room, error) {
	room, err := id.ParseRoom(httpx.Param(r, "roomId"))
	if err != nil {
		return "", merr.InvalidParam("Not a valid room ID")
	}
	return room, nil
}

// adminRoomList lists the media of a room.
func (m *Media) adminRoomList(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	local, remote := []string{}, []string{}
	err = m.eachInRoom(r.Context(), room, func(i mediastore.ID) error {
		if m.servers.IsLocal(i.Origin) {
			local = append(local, i.String())
		} else {
			remote = append(remote, i.String())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"local": local, "remote": remote})
}

// adminRoomQuarantine hides the media of a room.
func (m *Media) adminRoomQuarantine(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	hidden := 0
	err = m.eachInRoom(r.Context(), room, func(i mediastore.ID) error {
		n, err := m.store.Quarantine(r.Context(), i, session.From(r).User)
		if errors.Is(err, mediastore.ErrNotFound) {
			err = nil // deleted, or never fetched
		}
		hidden += n
		return err
	})
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]int{"num_quarantined": hidden})
}
