package rooms_test

import (
	"fmt"
	"net/url"
	"testing"

	"hanse/services/client"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Guest Access", "Server behaviour": guests join rooms of other servers that say that they admit guests. When
// we are in the room and that is not so, the guest leaves again.
func TestGuestsJoinElsewhere(t *testing.T) {
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.Registration.Guests = true })
	token := c.Do("POST", v3+"/register?kind=guest", "", map[string]any{}).OK().Str("access_token")
	summary := func(room string, guests bool) string {
		return fmt.Sprintf(`{"room":{"room_id":%q,"join_rule":"public","num_joined_members":2,"world_readable":false,"guest_can_join":%v}}`, room, guests)
	}
	c.Far(map[string]string{
		"/hierarchy/!open:far.example":   summary("!open:far.example", true),
		"/hierarchy/!closed:far.example": summary("!closed:far.example", false),
	})
	for _, q := range []struct {
		room         string
		joins, leave int
	}{{"!closed:far.example", 0, 0}, {"!unknown:far.example", 0, 0}, {"!open:far.example", 1, 1}} {
		c.Do("POST", v3+"/join/"+url.PathEscape(q.room)+"?via=far.example", token, map[string]any{}).Fails(403, "M_GUEST_ACCESS_FORBIDDEN")
		c.Rooms.Mu.Lock()
		if len(c.Rooms.Joins) != q.joins || len(c.Rooms.Leaves) != q.leave {
			t.Errorf("%s: %d joins, %d leaves", q.room, len(c.Rooms.Joins), len(c.Rooms.Leaves))
		}
		c.Rooms.Mu.Unlock()
	}
	c.Do("PUT", v3+"/rooms/"+url.PathEscape("!open:far.example")+"/state/m.room.member/@x:a.example", token,
		map[string]any{"membership": "join"}).Fails(403, "M_GUEST_ACCESS_FORBIDDEN")
}
