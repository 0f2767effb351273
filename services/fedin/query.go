package fedin

import (
	"encoding/json"
	"errors"
	"net/http"

	"hanse/pkg/asquery"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/userdb"
)

// localUser reads a user id that must be one of ours.
func (f *Fedin) localUser(text string) (id.User, error) {
	if text == "" {
		return "", merr.MissingParam("user_id")
	}
	u, err := id.ParseUser(text)
	if err != nil {
		return "", merr.InvalidParam(err.Error())
	}
	if !f.isLocal(u) {
		return "", merr.InvalidParam("User is not hosted on this homeserver")
	}
	return u, nil
}

// queryProfile answers GET query/profile (server-server API, "Querying for information").
func (f *Fedin) queryProfile(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	user, err := f.localUser(query.Get("user_id"))
	if err != nil {
		return err
	}
	p, err := f.users.Profile(q.Context(), user)
	if errors.Is(err, userdb.ErrNotFound) && f.queries.UserMade(q.Context(), user) {
		p, err = f.users.Profile(q.Context(), user)
	}
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.NotFound("User not found")
	}
	if err != nil {
		return err
	}
	all := make(map[string]json.RawMessage, len(p.Fields)+2)
	for name, raw := range p.Fields {
		all[name] = raw
	}
	if p.Displayname != nil {
		all["displayname"] = quoted(*p.Displayname)
	}
	if p.AvatarURL != nil {
		all["avatar_url"] = quoted(*p.AvatarURL)
	}
	field := query.Get("field")
	if field == "" {
		return httpx.OK(w, all)
	}
	one := make(map[string]json.RawMessage, 1)
	if raw, ok := all[field]; ok {
		one[field] = raw
	}
	return httpx.OK(w, one)
}

// maxServers bounds the servers that are named for a room.
const maxServers = 500

// queryDirectory answers GET query/directory.
func (f *Fedin) queryDirectory(w http.ResponseWriter, q *request) error {
	text := q.URL.Query().Get("room_alias")
	if text == "" {
		return merr.MissingParam("room_alias")
	}
	alias, err := id.ParseAlias(text)
	if err != nil {
		return merr.InvalidParam(err.Error())
	}
	if !f.servers.IsLocal(alias.Server()) {
		return merr.InvalidParam("Room Alias is not hosted on this homeserver")
	}
	a, err := f.directory.Alias(q.Context(), alias)
	if errors.Is(err, roomdir.ErrNotFound) {
		var made bool
		if made, err = f.queries.Alias(q.Context(), alias); made {
			a, err = f.directory.Alias(q.Context(), alias)
		} else if err == nil || errors.Is(err, asquery.ErrNoAnswer) {
			err = roomdir.ErrNotFound
		}
	}
	if errors.Is(err, roomdir.ErrNotFound) {
		return merr.NotFound("Room alias " + text + " not found")
	}
	if err != nil {
		return err
	}
	servers := []id.Server{alias.Server()}
	room, err := f.rooms.Room(q.Context(), a.Room)
	if err == nil {
		others, err := f.rooms.Servers(q.Context(), room.Part, room.NID)
		if err != nil {
			return err
		}
		for _, s := range others[:min(len(others), maxServers)] {
			if s != alias.Server() {
				servers = append(servers, s)
			}
		}
	} else if !errors.Is(err, roomdb.ErrNotFound) {
		return err
	}
	return httpx.OK(w, map[string]any{"room_id": a.Room, "servers": servers})
}

// userinfo answers GET openid/userinfo (server-server API, "OpenID").
func (f *Fedin) userinfo(w http.ResponseWriter, r *http.Request) error {
	token := r.URL.Query().Get("access_token")
	if token == "" {
		return merr.New(http.StatusUnauthorized, merr.CodeMissingToken, "Access Token required")
	}
	user, err := f.users.OpenIDTokenOwner(r.Context(), token)
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.New(http.StatusUnauthorized, merr.CodeUnknownToken, "Access Token unknown or expired")
	}
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]id.User{"sub": user})
}
