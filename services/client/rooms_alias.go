package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/roomowner"
	roomv1 "hanse/proto/room/v1"
)

const (
	// aliasTime bounds the look-up of an alias at another server.
	aliasTime = 15 * time.Second
	// maxAliasServers bounds the servers that are named for a room.
	maxAliasServers = 50
)

func pathAlias(r *http.Request) (id.Alias, error) {
	alias, err := id.ParseAlias(param(r, "roomAlias"))
	if err != nil {
		return "", merr.InvalidParam("Room alias invalid")
	}
	return alias, nil
}

// getAlias answers GET /directory/room/{roomAlias} (client-server API, "Room aliases").
func (c *Client) getAlias(w http.ResponseWriter, r *http.Request) error {
	alias, err := pathAlias(r)
	if err != nil {
		return err
	}
	t, err := c.resolve(r.Context(), c.server(r), alias)
	if err != nil {
		return err
	}
	return httpx.OK(w, t)
}

// resolve finds the room of an alias: of ours, or by asking its server.
func (c *Client) resolve(ctx context.Context, origin id.Server, alias id.Alias) (target, error) {
	var t target
	if !c.servers.IsLocal(alias.Server()) {
		uri := "/_matrix/federation/v1/query/directory?room_alias=" + url.QueryEscape(string(alias))
		if err := c.federate(ctx, origin, alias.Server(), http.MethodGet, uri, nil, &t, aliasTime); err != nil {
			return t, err
		}
		if _, err := id.ParseRoom(string(t.Room)); err != nil {
			return t, merr.BadGateway("The answer of " + string(alias.Server()) + " was not understood").WithCause(err)
		}
		t.Servers = slices.DeleteFunc(t.Servers, func(s id.Server) bool { _, err := id.ParseServer(string(s)); return err != nil })
		return t, nil
	}
	a, err := c.dir.Alias(ctx, alias)
	if errors.Is(err, roomdir.ErrNotFound) {
		return t, merr.NotFound("Room alias " + string(alias) + " not found.")
	}
	if err != nil {
		return t, err
	}
	t.Room = a.Room
	room, err := c.rooms.Room(ctx, a.Room)
	switch {
	case errors.Is(err, roomdb.ErrNotFound):
	case err != nil:
		return t, err
	default:
		if t.Servers, err = c.rooms.Servers(ctx, room.Part, room.NID); err != nil {
			return t, err
		}
	}
	slices.SortFunc(t.Servers, func(a, b id.Server) int { // ours first: they know the room for certain
		switch {
		case c.servers.IsLocal(a) == c.servers.IsLocal(b):
			return strings.Compare(string(a), string(b))
		case c.servers.IsLocal(a):
			return -1
		}
		return 1
	})
	if len(t.Servers) == 0 {
		t.Servers = []id.Server{alias.Server()}
	}
	t.Servers = t.Servers[:min(len(t.Servers), maxAliasServers)]
	return t, nil
}

// newAlias checks that a client may make an alias of this name.
func (c *Client) newAlias(r *http.Request, alias id.Alias) error {
	i := me(r)
	if !c.servers.IsLocal(alias.Server()) {
		return merr.InvalidParam("Room alias must be local")
	}
	if strings.IndexFunc(alias.Localpart(), func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }) >= 0 {
		return merr.InvalidParam("Invalid characters in room alias")
	}
	if owner := c.apps.OwnerOfAlias(alias); owner != nil && owner != i.Appservice {
		return merr.Exclusive("This alias is reserved by an application service.")
	}
	return nil
}

// putAlias answers PUT /directory/room/{roomAlias}.
func (c *Client) putAlias(w http.ResponseWriter, r *http.Request) error {
	alias, err := pathAlias(r)
	if err != nil {
		return err
	}
	var q struct {
		Room *string `json:"room_id"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Room == nil {
		return merr.MissingParam("room_id")
	}
	room, err := id.ParseRoom(*q.Room)
	if err != nil {
		return merr.InvalidParam("Not a valid room ID")
	}
	if err := c.newAlias(r, alias); err != nil {
		return err
	}
	i := me(r)
	if i.Appservice == nil {
		if err := c.mustBeJoined(r.Context(), i.User, room); err != nil {
			return err
		}
	}
	err = c.dir.Add(r.Context(), roomdir.Alias{Alias: alias, Room: room, Creator: i.User})
	if errors.Is(err, roomdir.ErrTaken) {
		return merr.AliasTaken(string(alias))
	}
	if err != nil {
		return err
	}
	return httpx.Empty(w)
}

// deleteAlias answers DELETE /directory/room/{roomAlias}: who made the alias may, and who may set the canonical one.
func (c *Client) deleteAlias(w http.ResponseWriter, r *http.Request) error {
	alias, err := pathAlias(r)
	if err != nil {
		return err
	}
	ctx, i := r.Context(), me(r)
	a, err := c.dir.Alias(ctx, alias)
	if errors.Is(err, roomdir.ErrNotFound) {
		return merr.NotFound("Unknown room alias")
	}
	if err != nil {
		return err
	}
	if a.Creator != i.User && !i.Admin {
		may, err := c.mayManageAliases(ctx, i.User, a.Room)
		if err != nil {
			return err
		}
		if !may {
			return merr.Forbidden("You don't have permission to delete the alias.")
		}
	}
	if err := c.dir.Delete(ctx, alias, a.Room); err != nil && !errors.Is(err, roomdir.ErrNotFound) {
		return err
	}
	if err := c.dropCanonical(ctx, i.User, a); err != nil {
		// The alias is gone all the same; whoever may set the canonical alias can take it out.
		c.log.InfoContext(ctx, "canonical alias not updated", "room", a.Room, "err", err)
	}
	return httpx.Empty(w)
}

// mayManageAliases says whether a user is in the room with the power to set its canonical alias.
func (c *Client) mayManageAliases(ctx context.Context, user id.User, roomID id.Room) (bool, error) {
	room, err := c.joined(ctx, user, roomID)
	if merr.HasCode(err, merr.CodeForbidden) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, err := c.powers(ctx, room)
	return err == nil && maySet(user, typeCanonicalAlias, st), err
}

// dropCanonical takes a deleted alias out of the room's canonical aliases, if the user may.
func (c *Client) dropCanonical(ctx context.Context, user id.User, a roomdir.Alias) error {
	room, err := c.rooms.Room(ctx, a.Room)
	if err != nil {
		return err
	}
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	e, err := c.rooms.StateEvent(ctx, room.Part, m, typeCanonicalAlias, "")
	if err != nil || e == nil {
		return err
	}
	content, changed := withoutAlias(e.Content, a.Alias)
	if !changed {
		return nil
	}
	_, err = c.send(ctx, a.Room, stateIntent(user, typeCanonicalAlias, "", content), newCause(user))
	return err
}

// withoutAlias removes an alias from the content of a canonical alias event.
func withoutAlias(content []byte, alias id.Alias) (map[string]any, bool) {
	var c map[string]any
	if json.Unmarshal(content, &c) != nil {
		return nil, false
	}
	changed := false
	if c["alias"] == string(alias) {
		delete(c, "alias")
		changed = true
	}
	if alt, ok := c["alt_aliases"].([]any); ok {
		kept := slices.DeleteFunc(slices.Clone(alt), func(v any) bool { return v == string(alias) })
		if len(kept) != len(alt) {
			changed = true
			c["alt_aliases"] = kept
			if len(kept) == 0 {
				delete(c, "alt_aliases")
			}
		}
	}
	return c, changed
}

// getListed answers GET /directory/list/room/{roomId}.
func (c *Client) getListed(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	room, err := c.rooms.Room(r.Context(), roomID)
	if isNotFound(err) {
		return merr.NotFound("Unknown room")
	}
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"visibility": visibilityOf(room)})
}

// visibilityOf says whether the directory shows a room.
func visibilityOf(room *roomdb.Room) string {
	if room.Published {
		return "public"
	}
	return "private"
}

// putListed answers PUT /directory/list/room/{roomId}: members may who may set the canonical alias, as with Synapse.
func (c *Client) putListed(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	var q struct {
		Visibility *string `json:"visibility"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	published := q.Visibility == nil || *q.Visibility == "public"
	if !published && *q.Visibility != "private" {
		return merr.InvalidParam("visibility must be public or private")
	}
	ctx, i := r.Context(), me(r)
	_, err = c.rooms.Room(ctx, roomID)
	if isNotFound(err) {
		return merr.NotFound("Unknown room")
	}
	if err != nil {
		return err
	}
	if !i.Admin {
		may, err := c.mayManageAliases(ctx, i.User, roomID)
		if err != nil {
			return err
		}
		if !may {
			return merr.Forbidden("You must be a moderator of the room to change its place in the room directory.")
		}
	}
	if err := c.setPublished(ctx, roomID, published); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Client) setPublished(ctx context.Context, room id.Room, published bool) error {
	return roomowner.Call(ctx, c.router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.SetPublished(ctx, &roomv1.SetPublishedRequest{RoomId: string(room), Published: published})
		return err
	})
}
