package directory

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

	"hanse/pkg/asquery"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/roomowner"
	"hanse/pkg/session"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

const (
	// aliasTime bounds the look-up of an alias at another server.
	aliasTime = 15 * time.Second
	// maxAliasServers bounds the servers that are named for a room.
	maxAliasServers = 50
)

func pathAlias(r *http.Request) (id.Alias, error) {
	alias, err := id.ParseAlias(core.Param(r, "roomAlias"))
	if err != nil {
		return "", merr.InvalidParam("Room alias invalid")
	}
	return alias, nil
}

// getAlias answers GET /directory/room/{roomAlias} (client-server API, "Room aliases").
func (c *Directory) getAlias(w http.ResponseWriter, r *http.Request) error {
	alias, err := pathAlias(r)
	if err != nil {
		return err
	}
	t, err := c.Resolve(r.Context(), c.Server(r), alias)
	if err != nil {
		return err
	}
	return httpx.OK(w, t)
}

// Resolve finds the room of an alias: of ours, or by asking its server.
func (c *Directory) Resolve(ctx context.Context, origin id.Server, alias id.Alias) (Target, error) {
	var t Target
	if !c.Servers.IsLocal(alias.Server()) {
		uri := "/_matrix/federation/v1/query/directory?room_alias=" + url.QueryEscape(string(alias))
		if err := c.Federate(ctx, origin, alias.Server(), http.MethodGet, uri, nil, &t, aliasTime); err != nil {
			return t, err
		}
		if _, err := id.ParseRoom(string(t.Room)); err != nil {
			return t, merr.BadGateway("The answer of " + string(alias.Server()) + " was not understood").WithCause(err)
		}
		t.Servers = slices.DeleteFunc(t.Servers, func(s id.Server) bool { _, err := id.ParseServer(string(s)); return err != nil })
		return t, nil
	}
	a, err := c.localAlias(ctx, alias)
	if err != nil {
		return t, err
	}
	t.Room = a.Room
	room, err := c.Rooms.Room(ctx, a.Room)
	switch {
	case errors.Is(err, roomdb.ErrNotFound):
	case err != nil:
		return t, err
	default:
		if t.Servers, err = c.Rooms.Servers(ctx, room.Part, room.NID); err != nil {
			return t, err
		}
	}
	slices.SortFunc(t.Servers, func(a, b id.Server) int { // ours first: they know the room for certain
		switch {
		case c.Servers.IsLocal(a) == c.Servers.IsLocal(b):
			return strings.Compare(string(a), string(b))
		case c.Servers.IsLocal(a):
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

// localAlias finds a local alias. One that nobody knows, an application service may make now (application service API, "Querying").
func (c *Directory) localAlias(ctx context.Context, alias id.Alias) (roomdir.Alias, error) {
	a, err := c.dir.Alias(ctx, alias)
	if !errors.Is(err, roomdir.ErrNotFound) {
		return a, err
	}
	made, err := c.Queries.Alias(ctx, alias)
	if errors.Is(err, asquery.ErrNoAnswer) {
		return a, merr.New(http.StatusRequestTimeout, merr.CodeNotFound, "The application service that may know the alias does not answer").WithCause(err)
	}
	if err != nil {
		return a, err
	}
	err = roomdir.ErrNotFound
	if made {
		a, err = c.dir.Alias(ctx, alias)
	}
	if errors.Is(err, roomdir.ErrNotFound) {
		return a, merr.NotFound("Room alias " + string(alias) + " not found.")
	}
	return a, err
}

// MayCreate checks that a client may make an alias of this name.
func (c *Directory) MayCreate(r *http.Request, alias id.Alias) error {
	i := core.Me(r)
	if !c.Servers.IsLocal(alias.Server()) {
		return merr.InvalidParam("Room alias must be local")
	}
	if strings.IndexFunc(alias.Localpart(), func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }) >= 0 {
		return merr.InvalidParam("Invalid characters in room alias")
	}
	return c.mayTouch(i, alias)
}

// mayTouch keeps application services to the aliases in their namespaces, and everybody else out of those that a service has to
// itself (application service API, "Server admin style permissions").
func (c *Directory) mayTouch(i *session.Identity, alias id.Alias) error {
	if s := i.Appservice; s != nil && (alias.Server() != s.Server || !s.InterestedInAlias(alias)) {
		return merr.Exclusive("This application service has not reserved this kind of alias.")
	}
	if owner := c.apps.OwnerOfAlias(alias); owner != nil && (i.Appservice == nil || owner.ID != i.Appservice.ID) {
		return merr.Exclusive("This alias is reserved by an application service.")
	}
	return nil
}

// putAlias answers PUT /directory/room/{roomAlias}.
func (c *Directory) putAlias(w http.ResponseWriter, r *http.Request) error {
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
	if err := c.MayCreate(r, alias); err != nil {
		return err
	}
	i := core.Me(r)
	if i.Appservice == nil {
		if err := c.access.MustBeJoined(r.Context(), i.User, room); err != nil {
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
func (c *Directory) deleteAlias(w http.ResponseWriter, r *http.Request) error {
	alias, err := pathAlias(r)
	if err != nil {
		return err
	}
	ctx, i := r.Context(), core.Me(r)
	a, err := c.dir.Alias(ctx, alias)
	if errors.Is(err, roomdir.ErrNotFound) {
		return merr.NotFound("Unknown room alias")
	}
	if err != nil {
		return err
	}
	if err := c.mayTouch(i, alias); err != nil {
		return err
	}
	if a.Creator != i.User && !i.Admin && i.Appservice == nil {
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
		c.Log.InfoContext(ctx, "canonical alias not updated", "room", a.Room, "err", err)
	}
	return httpx.Empty(w)
}

// mayManageAliases says whether a user is in the room with the power to set its canonical alias.
func (c *Directory) mayManageAliases(ctx context.Context, user id.User, roomID id.Room) (bool, error) {
	room, err := c.access.Joined(ctx, user, roomID)
	if merr.HasCode(err, merr.CodeForbidden) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, err := c.access.Powers(ctx, room)
	return err == nil && access.MaySet(user, core.TypeCanonicalAlias, st), err
}

// dropCanonical takes a deleted alias out of the room's canonical aliases, if the user may.
func (c *Directory) dropCanonical(ctx context.Context, user id.User, a roomdir.Alias) error {
	room, err := c.Rooms.Room(ctx, a.Room)
	if err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	e, err := c.Rooms.StateEvent(ctx, room.Part, m, core.TypeCanonicalAlias, "")
	if err != nil || e == nil {
		return err
	}
	content, changed := withoutAlias(e.Content, a.Alias)
	if !changed {
		return nil
	}
	_, err = c.access.Send(ctx, a.Room, access.StateIntent(user, core.TypeCanonicalAlias, "", content), access.NewCause(user))
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
func (c *Directory) getListed(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	room, err := c.Rooms.Room(r.Context(), roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Unknown room")
	}
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"visibility": Visibility(room)})
}

// Visibility says whether the directory shows a room.
func Visibility(room *roomdb.Room) string {
	if room.Published {
		return "public"
	}
	return "private"
}

// putListed answers PUT /directory/list/room/{roomId}: members may who may set the canonical alias, as with Synapse.
func (c *Directory) putListed(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
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
	ctx, i := r.Context(), core.Me(r)
	_, err = c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
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
	if err := c.SetPublished(ctx, roomID, published); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Directory) SetPublished(ctx context.Context, room id.Room, published bool) error {
	return roomowner.Call(ctx, c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.SetPublished(ctx, &roomv1.SetPublishedRequest{RoomId: string(room), Published: published})
		return err
	})
}

// roomAliases answers GET /rooms/{roomId}/aliases, for whoever may read the room.
func (c *Directory) roomAliases(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	if _, err := c.access.Read(r.Context(), core.Me(r).User, room); err != nil {
		return err
	}
	aliases, err := c.dir.AliasesOf(r.Context(), room)
	if err != nil {
		return err
	}
	if aliases == nil {
		aliases = []id.Alias{}
	}
	slices.Sort(aliases)
	return httpx.OK(w, map[string]any{"aliases": aliases})
}
