package people

import (
	"net/http"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

func (c *People) mutualRoomsRoutes(rt *core.Routes) {
	rt.AuthV1.Handle("GET /mutual_rooms", c.mutualRooms)
	rt.Unstable("").Handle("GET /mutual_rooms", c.mutualRooms)
}

// mutualRooms answers GET /_matrix/client/v1/mutual_rooms (client-server API, "Mutual Rooms"), always in one batch.
func (c *People) mutualRooms(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if !q.Has("user_id") {
		return merr.MissingParam("user_id")
	}
	other, err := id.ParseUser(q.Get("user_id"))
	if err != nil {
		return merr.InvalidParam("The user ID provided was invalid")
	}
	if other == core.Me(r).User {
		return merr.InvalidParam("Cannot ask for rooms shared with oneself")
	}
	if q.Get("from") != "" {
		return merr.InvalidParam("Unknown from token")
	}
	shared, err := c.sharing.SharedRooms(r.Context(), core.Me(r).User, []id.User{other})
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
