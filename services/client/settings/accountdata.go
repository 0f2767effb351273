package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/merr"
	"hanse/pkg/notify"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

// Types of account data that the server knows.
const (
	DataFullyRead = "m.fully_read"
	DataTag       = "m.tag"
)

const (
	maxTagName  = 255
	maxDataType = 255
)

func (c *Settings) accountDataRoutes(rt *core.Routes) {
	rt.Guest.Handle("GET /user/{userId}/account_data/{type}", c.getAccountData)
	rt.Guest.Handle("PUT /user/{userId}/account_data/{type}", c.putAccountData)
	rt.Guest.Handle("GET /user/{userId}/rooms/{roomId}/account_data/{type}", c.getAccountData)
	rt.Guest.Handle("PUT /user/{userId}/rooms/{roomId}/account_data/{type}", c.putAccountData)
	old := rt.Unstable("/org.matrix.msc3391")
	old.Handle("DELETE /user/{userId}/account_data/{type}", c.deleteAccountData)
	old.Handle("DELETE /user/{userId}/rooms/{roomId}/account_data/{type}", c.deleteAccountData)
	rt.Guest.Handle("GET /user/{userId}/rooms/{roomId}/tags", c.getTags)
	rt.Guest.Handle("PUT /user/{userId}/rooms/{roomId}/tags/{tag}", c.putTag)
	rt.Guest.Handle("DELETE /user/{userId}/rooms/{roomId}/tags/{tag}", c.deleteTag)
}

// dataKey is what an account data request names: the user, the room ("" for global data) and the type.
func dataKey(r *http.Request) (user id.User, room id.Room, typ string, err error) {
	if user, err = core.OwnUser(r); err != nil {
		return
	}
	if core.Param(r, "roomId") != "" {
		if room, err = core.PathRoom(r); err != nil {
			return
		}
	}
	if typ = core.Param(r, "type"); typ == "" || len(typ) > maxDataType {
		err = merr.InvalidParam("Not a type of account data")
	}
	return
}

func (c *Settings) getAccountData(w http.ResponseWriter, r *http.Request) error {
	user, room, typ, err := dataKey(r)
	if err != nil {
		return err
	}
	content, err := c.Users.AccountData(r.Context(), user, room, typ)
	if errors.Is(err, userdb.ErrNotFound) {
		if room == "" && typ == notify.PushRules {
			rules, err := c.pushRules(r.Context(), user)
			if err != nil {
				return err
			}
			return httpx.OK(w, map[string]pushrule.Ruleset{"global": rules})
		}
		return merr.NotFound("Account data not found")
	}
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, content)
}

// settable refuses what the server manages itself: 405 M_BAD_JSON.
func settable(room id.Room, typ string) error {
	if typ == DataFullyRead || (room == "" && typ == notify.PushRules) {
		return merr.New(http.StatusMethodNotAllowed, merr.CodeBadJSON, "Cannot set "+typ+" through this API.")
	}
	return nil
}

// deleteAccountData answers DELETE .../account_data/{type} (MSC3391).
func (c *Settings) deleteAccountData(w http.ResponseWriter, r *http.Request) error {
	user, room, typ, err := dataKey(r)
	if err != nil {
		return err
	}
	if err := settable(room, typ); err != nil {
		return err
	}
	return c.dropAccountData(w, r, user, room, typ)
}

func (c *Settings) dropAccountData(w http.ResponseWriter, r *http.Request, user id.User, room id.Room, typ string) error {
	if err := c.Users.DeleteAccountData(r.Context(), user, room, typ); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// putAccountData answers PUT .../account_data/{type} (client-server API, "Client Config"). An empty object deletes the entry
// (MSC3391, "Backwards Compatibility").
func (c *Settings) putAccountData(w http.ResponseWriter, r *http.Request) error {
	user, room, typ, err := dataKey(r)
	if err != nil {
		return err
	}
	if err := settable(room, typ); err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	var content bytes.Buffer
	if err := json.Compact(&content, body); err != nil {
		return merr.NotJSON("The request body is not JSON")
	}
	if content.String() == "{}" {
		return c.dropAccountData(w, r, user, room, typ)
	}
	if err := c.MayStoreData(r.Context(), user, room, typ, content.Len()); err != nil {
		return err
	}
	if _, err := c.Users.PutAccountData(r.Context(), user, room, typ, content.Bytes()); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// tags is the content of m.tag (client-server API, "Room Tagging").
type tags struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

func parseTags(raw []byte) tags {
	var t tags
	if json.Unmarshal(raw, &t) != nil || t.Tags == nil { // a client may have written anything as m.tag
		t.Tags = make(map[string]json.RawMessage)
	}
	return t
}

func (c *Settings) getTags(w http.ResponseWriter, r *http.Request) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	content, err := c.Users.AccountData(r.Context(), user, room, DataTag)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return err
	}
	return httpx.OK(w, parseTags(content))
}

func (c *Settings) putTag(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	var content struct {
		Order *float64 `json:"order"`
	}
	if err := httpx.Unmarshal(body, &content); err != nil {
		return err
	}
	if content.Order != nil && (*content.Order < 0 || *content.Order > 1) {
		return merr.InvalidParam("order must be between 0 and 1")
	}
	return c.changeTag(w, r, body)
}

func (c *Settings) deleteTag(w http.ResponseWriter, r *http.Request) error {
	return c.changeTag(w, r, nil)
}

func (c *Settings) changeTag(w http.ResponseWriter, r *http.Request, body []byte) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	tag := core.Param(r, "tag")
	if tag == "" || len(tag) > maxTagName {
		return merr.InvalidParam("Not a tag: it must have 1 to 255 bytes")
	}
	if body != nil {
		if err := c.MayStoreData(r.Context(), user, room, DataTag, len(body)); err != nil {
			return err
		}
	}
	err = c.Users.UpdateAccountData(r.Context(), user, room, DataTag, func(old []byte) ([]byte, error) {
		t := parseTags(old)
		if body != nil {
			t.Tags[tag] = body
		} else {
			delete(t.Tags, tag)
		}
		content, err := json.Marshal(t)
		if err == nil && body != nil {
			err = c.CheckData(len(content))
		}
		return content, err
	})
	if err != nil {
		return err
	}
	return httpx.Empty(w)
}
