package client_test

import (
	"strings"
	"testing"

	"hanse/services/client/clienttest"
)

// Clients call endpoints by the names that proposals gave them ("Unstable namespaces" in the proposals): what other servers keep
// there is here too.
func TestUnstablePaths(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	for _, path := range []string{
		"POST /unstable/keys/device_signing/upload", "POST /unstable/keys/signatures/upload", "POST /unstable/keys/query",
		"POST /unstable/keys/upload", "GET /unstable/room_keys/version", "PUT /unstable/sendToDevice/m.test/1", "GET /unstable/account/whoami",
		"POST /r0/keys/device_signing/upload", "GET /unstable/devices", "GET /unstable/pushrules/",
		"GET /unstable/org.matrix.msc2432/rooms/!a:a.example/aliases", "GET /unstable/mutual_rooms?user_id=@b:a.example", "GET /unstable/register/m.login.registration_token/validity?token=x",
		"POST /unstable/org.matrix.msc4151/rooms/!a:a.example/report", "GET /unstable/im.nheko.summary/summary/!a:a.example",
		"GET /unstable/uk.tcpip.msc4133/profile/" + string(anna.ID) + "/displayname",
	} {
		method, uri, _ := strings.Cut(path, " ")
		var body any
		if method != "GET" {
			body = map[string]any{}
		}
		if a := anna.Do(method, "/_matrix/client"+uri, body); a.Str("errcode") == "M_UNRECOGNIZED" || a.Status == 405 {
			t.Errorf("%s: %d %s", path, a.Status, a.Raw)
		}
	}
}
