package directory

import (
	"net/http"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

// maxVia bounds the servers that a client may name.
const maxVia = 20

// Target is a room and servers that may be in it.
type Target struct {
	Room    id.Room     `json:"room_id"`
	Servers []id.Server `json:"servers"`
}

// RoomOrAlias reads a path parameter that names a room either way, and the servers of the query.
func (c *Directory) RoomOrAlias(r *http.Request) (Target, error) {
	text := core.Param(r, "roomIdOrAlias")
	var t Target
	if alias, err := id.ParseAlias(text); err == nil {
		if t, err = c.Resolve(r.Context(), c.Server(r), alias); err != nil {
			return t, err
		}
	} else if t.Room, err = id.ParseRoom(text); err != nil {
		return t, merr.InvalidParam("Not a room ID or alias")
	}
	t.Servers = append(queryServers(r), t.Servers...)
	return t, nil
}

// queryServers are the servers that the client names: via, until version 1.11 server_name.
func queryServers(r *http.Request) []id.Server {
	var servers []id.Server
	q := r.URL.Query()
	for _, text := range append(slices.Clone(q["via"]), q["server_name"]...) {
		if s, err := id.ParseServer(text); err == nil && !slices.Contains(servers, s) && len(servers) < maxVia {
			servers = append(servers, s)
		}
	}
	return servers
}
