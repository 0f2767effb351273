package people_test

import (
	"testing"

	"hanse/services/client/clienttest"
)

// Client-server API, "Presence".
func TestPresence(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	path := v3 + "/presence/" + string(anna.ID) + "/status"
	if a := anna.Do("GET", path, nil).OK(); a.Str("presence") != "offline" {
		t.Errorf("presence: %s", a.Raw)
	}
	anna.Do("PUT", path, map[string]string{"presence": "online", "status_msg": "at sea"}).OK()
	if a := anna.Do("GET", path, nil).OK(); a.Str("presence") != "online" || a.Str("status_msg") != "at sea" || a.Get("currently_active") != true {
		t.Errorf("presence: %s", a.Raw)
	}
	bert.Do("GET", path, nil).Fails(403, "M_FORBIDDEN")
	bert.Do("PUT", path, map[string]string{"presence": "online"}).Fails(403, "M_FORBIDDEN")
	anna.Do("PUT", path, map[string]string{"presence": "asleep"}).Fails(400, "M_INVALID_PARAM")
	anna.Do("PUT", path, map[string]string{}).Fails(400, "M_MISSING_PARAM")
	c.Redis.FlushAll()
	if a := anna.Do("GET", path, nil).OK(); a.Str("presence") != "offline" {
		t.Errorf("presence after Redis was wiped: %s", a.Raw)
	}
	c.Redis.SetError("down")
	anna.Do("PUT", path, map[string]string{"presence": "online"}).OK()
	anna.Do("GET", path, nil).OK()
	c.Redis.SetError("")
}
