package core

import (
	"encoding/json"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

// Me is who makes the request; it panics outside authenticated routes, which is a mistake in the routes.
func Me(r *http.Request) *session.Identity {
	i := session.From(r)
	if i == nil {
		panic("client: handler needs an authenticated route")
	}
	return i
}

// Param is a path parameter.
func Param(r *http.Request, name string) string { return httpx.Param(r, name) }

// PathUser parses a user id in the path.
func PathUser(r *http.Request, name string) (id.User, error) {
	u, err := id.ParseUser(Param(r, name))
	if err != nil {
		return "", merr.InvalidParam("Not a valid user ID")
	}
	return u, nil
}

// OwnUser checks that a user id in the path is that of who asks: 403 otherwise.
func OwnUser(r *http.Request) (id.User, error) {
	u, err := PathUser(r, "userId")
	if err != nil {
		return "", err
	}
	if u != Me(r).User {
		return "", merr.Forbidden("Cannot act for other users")
	}
	return u, nil
}

// PathRoom parses a room id in the path.
func PathRoom(r *http.Request) (id.Room, error) {
	room, err := id.ParseRoom(Param(r, "roomId"))
	if err != nil {
		return "", merr.InvalidParam("Not a valid room ID")
	}
	return room, nil
}

// SetText sets a member of an object to a text, or deletes it if there is none.
func SetText(m map[string]json.RawMessage, key string, v *string) {
	if v == nil {
		delete(m, key)
		return
	}
	raw, err := json.Marshal(*v)
	if err == nil { // strings always marshal
		m[key] = raw
	}
}

// QueryLimit reads the limit parameter. A request without one has the limit of its filter, if that has any, else the standard one.
func QueryLimit(r *http.Request, ofFilter *int, standard, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		if ofFilter != nil {
			return min(*ofFilter, most), nil
		}
		return standard, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, merr.InvalidParam("limit must be a non-negative integer")
	}
	return min(n, most), nil
}

// QueryFlag reads a boolean parameter.
func QueryFlag(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, merr.InvalidParam(name + " must be true or false")
}

// PathEvent parses an event id in the path; one that cannot exist is not found.
func PathEvent(r *http.Request) (id.Event, error) {
	e, err := id.ParseEvent(Param(r, "eventId"))
	if err != nil {
		return "", merr.NotFound("Event not found.")
	}
	return e, nil
}

// Members decodes the members of a JSON object.
func Members(object []byte) (map[string]json.RawMessage, error) {
	m := make(map[string]json.RawMessage)
	if len(object) == 0 {
		return m, nil
	}
	if err := httpx.Unmarshal(object, &m); err != nil {
		return nil, err
	}
	return m, nil
}
