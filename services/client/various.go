package client

import (
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

const (
	maxReason = 2048 // characters of a report's reason
	maxUpload = 50 << 20
)

func (c *Client) variousRoutes(rt *routes) {
	rt.guest.Handle("GET /voip/turnServer", c.turnServer)
	rt.auth.Handle("GET /thirdparty/protocols", c.noProtocols)
	rt.auth.Handle("GET /thirdparty/protocol/{protocol}", c.noProtocol)
	for _, path := range []string{"/thirdparty/location", "/thirdparty/user", "/thirdparty/location/{protocol}", "/thirdparty/user/{protocol}"} {
		rt.auth.Handle("GET "+path, c.nobody)
	}
	rt.auth.Handle("POST /user/{userId}/openid/request_token", c.openIDToken)
	rt.auth.Handle("POST /rooms/{roomId}/report", c.reportRoom)
	rt.auth.Handle("POST /rooms/{roomId}/report/{eventId}", c.reportEvent)
	rt.auth.Handle("POST /users/{userId}/report", c.reportUser)
	rt.authUnstable("/org.matrix.msc4151").Handle("POST /rooms/{roomId}/report", c.reportRoom)
	rt.authV1.Handle("GET /mutual_rooms", c.mutualRooms)
	rt.authUnstable("").Handle("GET /mutual_rooms", c.mutualRooms)
	rt.authV1.Handle("GET /media/config", c.mediaConfig)
	rt.root.Group("/_matrix/media/v3", "/_matrix/media/r0").With(c.sessions.Required, c.perUser).Handle("GET /config", c.mediaConfig)
}

func (c *Client) noProtocols(w http.ResponseWriter, _ *http.Request) error { return httpx.Empty(w) }

func (c *Client) noProtocol(http.ResponseWriter, *http.Request) error {
	return merr.NotFound("Unknown protocol")
}

func (c *Client) nobody(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, []any{})
}

// mediaConfig answers GET /_matrix/client/v1/media/config and its deprecated form.
func (c *Client) mediaConfig(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]int64{"m.upload.size": maxUpload})
}

// mutualRooms answers GET /_matrix/client/v1/mutual_rooms (client-server API, "Mutual Rooms"), always in one batch.
func (c *Client) mutualRooms(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if !q.Has("user_id") {
		return merr.MissingParam("user_id")
	}
	other, err := id.ParseUser(q.Get("user_id"))
	if err != nil {
		return merr.InvalidParam("The user ID provided was invalid")
	}
	if other == me(r).User {
		return merr.InvalidParam("Cannot ask for rooms shared with oneself")
	}
	if q.Get("from") != "" {
		return merr.InvalidParam("Unknown from token")
	}
	shared, err := c.sharedRooms(r.Context(), me(r).User, []id.User{other})
	if err != nil {
		return err
	}
	rooms := shared[other]
	if rooms == nil {
		rooms = []id.Room{}
	}
	slices.Sort(rooms)
	return httpx.OK(w, map[string]any{"joined": rooms, "count": len(rooms)})
}

// openIDToken answers POST /user/{userId}/openid/request_token (client-server API, "OpenID").
func (c *Client) openIDToken(w http.ResponseWriter, r *http.Request) error {
	user, err := ownUser(r)
	if err != nil {
		return err
	}
	token, life := rand.Text(), c.cfg.Tokens.OpenID
	if err := c.users.AddOpenIDToken(r.Context(), token, user, time.Now().Add(life)); err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": user.Server(), "expires_in": int64(life.Seconds()),
	})
}

// reason reads the body of a report.
func reason(r *http.Request, required bool) (string, error) {
	var q struct {
		Reason *string `json:"reason"`
		Score  any     `json:"score"` // until version 1.17; of no use
	}
	if err := httpx.Decode(r, &q); err != nil {
		return "", err
	}
	if q.Reason == nil {
		if required {
			return "", merr.MissingParam("reason")
		}
		return "", nil
	}
	if utf8.RuneCountInString(*q.Reason) > maxReason {
		return "", merr.InvalidParam("The reason is too long")
	}
	return *q.Reason, nil
}

// reportRoom answers POST /rooms/{roomId}/report (client-server API, "Reporting Content").
func (c *Client) reportRoom(w http.ResponseWriter, r *http.Request) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	why, err := reason(r, true)
	if err != nil {
		return err
	}
	if err := c.limit(r, "report"); err != nil {
		return err
	}
	_, err = c.rooms.Room(r.Context(), room)
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Room not found")
	}
	if err != nil {
		return err
	}
	if err := c.users.AddReport(r.Context(), me(r).User, "room", room, "", "", why); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// reportEvent answers POST /rooms/{roomId}/report/{eventId}; only members may report, and nobody learns which events
// exist.
func (c *Client) reportEvent(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := id.ParseEvent(param(r, "eventId"))
	if err != nil {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	why, err := reason(r, false)
	if err != nil {
		return err
	}
	if err := c.limit(r, "report"); err != nil {
		return err
	}
	ctx, by := r.Context(), me(r).User
	m, err := c.users.Membership(ctx, by, roomID)
	if errors.Is(err, userdb.ErrNotFound) || (err == nil && m.Membership != "join") {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	if err != nil {
		return err
	}
	room, err := c.rooms.Room(ctx, roomID)
	if err == nil {
		_, err = c.rooms.EventByID(ctx, room, eventID)
	}
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	if err != nil {
		return err
	}
	if err := c.users.AddReport(ctx, by, "event", roomID, eventID, "", why); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// reportUser answers POST /users/{userId}/report; whether the user exists is not told.
func (c *Client) reportUser(w http.ResponseWriter, r *http.Request) error {
	user, err := pathUser(r, "userId")
	if err != nil {
		return err
	}
	why, err := reason(r, true)
	if err != nil {
		return err
	}
	if err := c.limit(r, "report"); err != nil {
		return err
	}
	if err := c.users.AddReport(r.Context(), me(r).User, "user", "", "", user, why); err != nil {
		return err
	}
	return httpx.Empty(w)
}
