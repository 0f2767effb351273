package core_test

import (
	"fmt"
	"strings"
	"testing"

	"hanse/services/client"
	"hanse/services/client/clienttest"
)

// Client-server API, "Common error codes": M_USER_LIMIT_EXCEEDED with info_uri, and M_TOO_LARGE. What one user may store is
// bounded, and what is stored can still be replaced by as much and taken away.
func TestQuotas(t *testing.T) {
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) {
		q := &cfg.Quotas
		q.AccountDataItem, q.AccountDataItems, q.AccountData = 4000, 10, 9000
		q.Filters, q.Devices, q.Pushers, q.PusherData, q.Backups, q.BackupSessions, q.BackupSession = 2, 2, 2, 2000, 2, 2, 2000
	})
	anna, bert := c.Register("anna"), c.Register("bert")
	const exceeded = "M_USER_LIMIT_EXCEEDED"
	base := v3 + "/user/" + string(anna.ID)
	of := func(n int) map[string]string { return map[string]string{"a": strings.Repeat("x", n)} }

	anna.Do("PUT", base+"/account_data/large", of(5000)).Fails(413, "M_TOO_LARGE")
	anna.Do("PUT", base+"/account_data/one", of(3500)).OK()
	anna.Do("PUT", base+"/rooms/!r:a.example/account_data/two", of(3500)).OK()
	if a := anna.Do("PUT", base+"/account_data/three", of(3500)).Fails(403, exceeded); a.Str("info_uri") == "" {
		t.Errorf("no info_uri: %s", a.Raw)
	}
	anna.Do("PUT", base+"/account_data/one", of(3500)).OK()
	anna.Do("PUT", base+"/account_data/one", of(1)).OK()
	anna.Do("PUT", base+"/account_data/three", of(3500)).OK()
	anna.Do("PUT", base+"/rooms/!r:a.example/tags/x", map[string]any{"order": 0.5, "more": strings.Repeat("x", 3500)}).Fails(403, exceeded)
	bert.Do("PUT", v3+"/user/"+string(bert.ID)+"/account_data/one", of(3500)).OK()
	for i := range 20 {
		a := bert.Do("PUT", fmt.Sprintf("%s/user/%s/account_data/n%d", v3, bert.ID, i), of(1))
		if i < 9 {
			a.OK()
		} else {
			a.Fails(403, exceeded)
		}
	}
	for i := range 3 {
		last := i == 2
		for _, a := range []*clienttest.Reply{
			anna.Do("POST", base+"/filter", map[string]any{"event_fields": []string{fmt.Sprint(i)}}),
			anna.Do("POST", v3+"/room_keys/version", map[string]any{"algorithm": "x", "auth_data": map[string]any{}}),
			anna.Do("POST", v3+"/pushers/set", map[string]any{"kind": "http", "pushkey": fmt.Sprint(i), "app_id": "x", "app_display_name": "x",
				"device_display_name": "x", "lang": "en", "data": map[string]any{"url": "https://push.example/_matrix/push/v1/notify"}}),
		} {
			if last {
				a.Fails(403, exceeded)
			} else {
				a.OK()
			}
		}
	}
	keys := func(n, size int) map[string]any {
		sessions := map[string]any{}
		for i := range n {
			sessions[fmt.Sprint("s", i)] = map[string]any{"first_message_index": 0, "forwarded_count": 0, "is_verified": true,
				"session_data": of(size)}
		}
		return map[string]any{"rooms": map[string]any{"!r:a.example": map[string]any{"sessions": sessions}}}
	}
	anna.Do("PUT", v3+"/room_keys/keys?version=2", keys(1, 3000)).Fails(413, "M_TOO_LARGE")
	anna.Do("PUT", v3+"/room_keys/keys?version=2", keys(3, 10)).Fails(403, exceeded)
	anna.Do("PUT", v3+"/room_keys/keys?version=2", keys(2, 10)).OK()
	c.Login(anna.ID, nil)
	c.Do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "password": clienttest.Password,
		"identifier": map[string]string{"type": "m.id.user", "user": string(anna.ID)}}).Fails(403, exceeded)
}
