package client_test

import (
	"net/url"
	"strings"
	"testing"

	"hanse/services/client/clienttest"
)

// Server-server API: what a client waits for is asked even of a server that backs off; what clients ask often, of many
// servers, is not asked if somebody has waited in vain a moment ago.
func TestUserWaitsForServerThatBacksOff(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	rita := "@rita:far.example"
	for _, tc := range []struct {
		method, path string
		body         any
		asked        string
		sparing      bool
	}{
		{"GET", "/directory/room/" + url.PathEscape("#a:far.example"), nil, "/query/directory", false},
		{"POST", "/publicRooms?server=far.example", map[string]any{}, "/publicRooms", false},
		{"GET", "/profile/" + rita, nil, "/query/profile", false},
		{"POST", "/keys/query", map[string]any{"device_keys": map[string]any{rita: []string{}}}, "/user/keys/query", true},
		{"POST", "/keys/claim", map[string]any{"one_time_keys": map[string]any{rita: map[string]any{"R": "signed_curve25519"}}}, "/user/keys/claim", true},
		{"GET", "/rooms/" + url.PathEscape("!r:far.example") + "/hierarchy", nil, "/hierarchy", true},
	} {
		c.Remote.Mu.Lock()
		c.Remote.Asked = nil
		c.Remote.Mu.Unlock()
		if strings.HasSuffix(tc.path, "/hierarchy") {
			anna.Do(tc.method, "/_matrix/client/v1"+tc.path, tc.body)
		} else {
			anna.Do(tc.method, v3+tc.path, tc.body)
		}
		c.Remote.Mu.Lock()
		asked := c.Remote.Asked
		c.Remote.Mu.Unlock()
		if len(asked) == 0 || !strings.HasPrefix(asked[0].Uri, "/_matrix/federation/v1"+tc.asked) {
			t.Errorf("%s: asked %v", tc.path, asked)
			continue
		}
		if !asked[0].IgnoreBackoff || asked[0].Sparing != tc.sparing {
			t.Errorf("%s: in spite of a backoff %v, sparing %v, want %v", tc.path, asked[0].IgnoreBackoff, asked[0].Sparing, tc.sparing)
		}
	}
}
