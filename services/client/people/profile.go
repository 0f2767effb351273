package people

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"time"
	"unicode/utf8"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	fieldName   = "displayname"
	fieldAvatar = "avatar_url"

	maxDisplayname = 256  // characters, as Synapse
	maxAvatarURL   = 1000 // characters, as Synapse
	maxProfileKey  = 255  // bytes
	maxProfile     = 64 << 10
)

func (c *People) profileRoutes(rt *core.Routes) {
	// Where clients looked for fields before the specification had them.
	old := rt.Root.Group("/_matrix/client/unstable/uk.tcpip.msc4133")
	old.Handle("GET /profile/{userId}/{keyName}", c.getProfileField)
	old = old.With(c.Sessions.Required, c.PerUser)
	old.Handle("PUT /profile/{userId}/{keyName}", c.putProfileField, httpx.MaxBody(2*maxProfile))
	old.Handle("DELETE /profile/{userId}/{keyName}", c.deleteProfileField)
	rt.Open.Handle("GET /profile/{userId}", c.getProfile)
	rt.Open.Handle("GET /profile/{userId}/{keyName}", c.getProfileField)
	rt.Guest.Handle("PUT /profile/{userId}/{keyName}", c.putProfileField, httpx.MaxBody(2*maxProfile))
	rt.Guest.Handle("DELETE /profile/{userId}/{keyName}", c.deleteProfileField)
}

// getProfile answers GET /profile/{userId} (client-server API, "Profiles").
func (c *People) getProfile(w http.ResponseWriter, r *http.Request) error {
	user, err := core.PathUser(r, "userId")
	if err != nil {
		return err
	}
	fields, err := c.profileOf(r.Context(), c.Server(r), user, "")
	if err != nil {
		return err
	}
	return httpx.OK(w, fields)
}

func (c *People) getProfileField(w http.ResponseWriter, r *http.Request) error {
	user, err := core.PathUser(r, "userId")
	if err != nil {
		return err
	}
	key := core.Param(r, "keyName")
	fields, err := c.profileOf(r.Context(), c.Server(r), user, key)
	if err != nil {
		return err
	}
	v, ok := fields[key]
	if !ok {
		return merr.NotFound("The profile has no such field")
	}
	return httpx.OK(w, map[string]json.RawMessage{key: v})
}

// profileOf returns the fields of a profile, of local users and, asking their server, of others.
func (c *People) profileOf(ctx context.Context, origin id.Server, user id.User, key string) (map[string]json.RawMessage, error) {
	if !c.IsLocal(user) {
		uri := "/_matrix/federation/v1/query/profile?user_id=" + url.QueryEscape(string(user))
		if key != "" {
			uri += "&field=" + url.QueryEscape(key)
		}
		var fields map[string]json.RawMessage
		err := c.Federate(ctx, origin, user.Server(), http.MethodGet, uri, nil, &fields, 10*time.Second)
		for k, v := range fields {
			if string(v) == "null" {
				delete(fields, k)
			}
		}
		return fields, err
	}
	p, err := c.Users.Profile(ctx, user)
	if errors.Is(err, userdb.ErrNotFound) && c.Queries.UserMade(ctx, user) {
		p, err = c.Users.Profile(ctx, user)
	}
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, merr.NotFound("User not found")
	}
	if err != nil {
		return nil, err
	}
	fields := p.Fields
	core.SetText(fields, fieldName, p.Displayname)
	core.SetText(fields, fieldAvatar, p.AvatarURL)
	return fields, nil
}

// profileKey is the grammar of field names (appendices, "Common Namespaced Identifier Grammar"; m.tz is one of it).
var profileKey = regexp.MustCompile(`^[a-z][a-z0-9_.-]*$`)

// writableField checks who may write the field of a profile, and the field's name.
func writableField(r *http.Request) (id.User, string, error) {
	user, err := core.PathUser(r, "userId")
	if err != nil {
		return "", "", err
	}
	if user != core.Me(r).User {
		return "", "", merr.Forbidden("Cannot change another user's profile")
	}
	key := core.Param(r, "keyName")
	switch {
	case core.Me(r).Guest && key != fieldName: // client-server API, "Guest Access"
		return "", "", merr.GuestAccessForbidden()
	case len(key) > maxProfileKey:
		return "", "", merr.New(http.StatusBadRequest, merr.CodeKeyTooLarge, "The name of the field is too long")
	case !profileKey.MatchString(key):
		return "", "", merr.InvalidParam("Not a name of a profile field")
	}
	return user, key, nil
}

// putProfileField answers PUT /profile/{userId}/{keyName}.
func (c *People) putProfileField(w http.ResponseWriter, r *http.Request) error {
	user, key, err := writableField(r)
	if err != nil {
		return err
	}
	var q map[string]json.RawMessage
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	value, ok := q[key]
	if !ok {
		return merr.MissingParam(key)
	}
	if err := c.Limit(r, "profile"); err != nil {
		return err
	}
	if err := c.setField(r.Context(), user, key, value); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *People) deleteProfileField(w http.ResponseWriter, r *http.Request) error {
	user, key, err := writableField(r)
	if err != nil {
		return err
	}
	if err := c.setField(r.Context(), user, key, nil); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// setField sets a field, or with nil deletes it. Display name and avatar are told to the user's rooms.
func (c *People) setField(ctx context.Context, user id.User, key string, value json.RawMessage) error {
	text, err := textField(key, value)
	if err != nil {
		return err
	}
	task, tell, err := c.Users.UpdateProfile(ctx, user, userdb.Task{User: user, Kind: userdb.TaskProfile}, func(p *userdb.Profile) (bool, error) {
		switch key {
		case fieldName:
			changed := !equalText(p.Displayname, text)
			p.Displayname = text
			return changed, nil
		case fieldAvatar:
			changed := !equalText(p.AvatarURL, text)
			p.AvatarURL = text
			return changed, nil
		}
		if value == nil {
			delete(p.Fields, key)
			return false, nil
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			return false, merr.BadJSON("Not a JSON value")
		}
		p.Fields[key] = compact.Bytes()
		return false, tooLargeProfile(p)
	})
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.NotFound("User not found")
	}
	if err != nil {
		return err
	}
	if tell {
		c.Tasks.StartAndWait(ctx, task)
	}
	return nil
}

// textField checks display name and avatar; for other fields it returns nil.
func textField(key string, value json.RawMessage) (*string, error) {
	limit := map[string]int{fieldName: maxDisplayname, fieldAvatar: maxAvatarURL}[key]
	if limit == 0 || value == nil {
		return nil, nil
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil, merr.InvalidParam("'" + key + "' must be a string")
	}
	if text == nil || *text == "" {
		return nil, nil
	}
	if utf8.RuneCountInString(*text) > limit {
		return nil, merr.InvalidParam("'" + key + "' is too long")
	}
	return text, nil
}

func equalText(a, b *string) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

func tooLargeProfile(p *userdb.Profile) error {
	all, err := json.Marshal(p.Fields)
	if err != nil {
		return err
	}
	size := len(all) + 64
	for _, s := range []*string{p.Displayname, p.AvatarURL} {
		if s != nil {
			size += len(*s)
		}
	}
	if size > maxProfile {
		return merr.New(http.StatusBadRequest, merr.CodeProfileTooLarge, "The profile would be too large")
	}
	return nil
}
