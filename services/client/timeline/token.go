package timeline

import (
	"net/http"

	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	"hanse/services/client/access"
)

// position reads a token that names a place in a room's timeline: one of ours, or that of a /sync, or of sliding sync. A /sync from before the
// user was in any room of the partition has no place in it: it lies before the user's join.
func position(a *access.View, text string) (roomdb.Place, error) {
	if place, err := roomdb.ParsePlace(text); err == nil {
		return place, nil
	}
	s, err := token.ParseSync(text, a.Reader.User)
	if err != nil {
		slide, err := token.ParseSlide(text, a.Reader.User)
		if err != nil {
			return 0, merr.InvalidParam("Invalid token")
		}
		s = slide.Sync
	}
	if pos, ok := s.At(a.Room.Part); ok {
		return roomdb.At(pos), nil
	}
	if a.Joined > 0 {
		return roomdb.At(a.Joined - 1), nil
	}
	return roomdb.At(a.Room.LastPos), nil
}

// direction reads the dir parameter; true for backwards.
func direction(r *http.Request) (bool, error) { return directionIn(r, "dir") }

// directionIn is direction for a parameter by another name.
func directionIn(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, merr.MissingParam(name)
	}
	return false, merr.InvalidParam(name + " must be b or f")
}

// span reads the from and to parameters, for pages that begin at the newest event if they go backwards.
func span(a *access.View, from, to string, back bool) (after, upTo roomdb.Place, err error) {
	after, upTo = roomdb.Start, roomdb.End
	if a.Left != nil {
		upTo = a.Reader.JoinedUntil
	}
	if back {
		from, to = to, from
	}
	if from != "" {
		if after, err = position(a, from); err != nil {
			return 0, 0, err
		}
	}
	if to != "" {
		place, err := position(a, to)
		if err != nil {
			return 0, 0, err
		}
		upTo = min(upTo, place)
	}
	return after, upTo, nil
}
