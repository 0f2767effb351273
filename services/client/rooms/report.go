package rooms

import (
	"errors"
	"net/http"
	"unicode/utf8"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

// maxReason bounds the characters of a report's reason.
const maxReason = 2048

func (c *Rooms) reportRoutes(rt *core.Routes) {
	rt.Auth.Handle("POST /rooms/{roomId}/report", c.reportRoom)
	rt.Auth.Handle("POST /rooms/{roomId}/report/{eventId}", c.reportEvent)
	rt.Auth.Handle("POST /users/{userId}/report", c.reportUser)
	rt.Unstable("/org.matrix.msc4151").Handle("POST /rooms/{roomId}/report", c.reportRoom)
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
func (c *Rooms) reportRoom(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	why, err := reason(r, true)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "report"); err != nil {
		return err
	}
	_, err = c.Rooms.Room(r.Context(), room)
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Room not found")
	}
	if err != nil {
		return err
	}
	if err := c.Users.AddReport(r.Context(), core.Me(r).User, "room", room, "", "", why); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// reportEvent answers POST /rooms/{roomId}/report/{eventId}; only members may report, and nobody learns which events
// exist.
func (c *Rooms) reportEvent(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := id.ParseEvent(core.Param(r, "eventId"))
	if err != nil {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	why, err := reason(r, false)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "report"); err != nil {
		return err
	}
	ctx, by := r.Context(), core.Me(r).User
	m, err := c.Users.Membership(ctx, by, roomID)
	if errors.Is(err, userdb.ErrNotFound) || (err == nil && m.Membership != "join") {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	if err != nil {
		return err
	}
	room, err := c.Rooms.Room(ctx, roomID)
	if err == nil {
		_, err = c.Rooms.EventByID(ctx, room, eventID)
	}
	if errors.Is(err, roomdb.ErrNotFound) {
		return merr.NotFound("Unable to report event: it does not exist or you aren't able to see it.")
	}
	if err != nil {
		return err
	}
	if err := c.Users.AddReport(ctx, by, "event", roomID, eventID, "", why); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// reportUser answers POST /users/{userId}/report; whether the user exists is not told.
func (c *Rooms) reportUser(w http.ResponseWriter, r *http.Request) error {
	user, err := core.PathUser(r, "userId")
	if err != nil {
		return err
	}
	why, err := reason(r, true)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "report"); err != nil {
		return err
	}
	if err := c.Users.AddReport(r.Context(), core.Me(r).User, "user", "", "", user, why); err != nil {
		return err
	}
	return httpx.Empty(w)
}
