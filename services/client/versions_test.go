package client_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hanse/services/client/clienttest"
)

// Client-server API, "API Versions": a version or feature is announced when, and only when, what it added is there. Each is
// held to a request that servers without it do not recognise, or do not answer like that.
func TestAnnouncedVersions(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	v1 := "/_matrix/client/v1"
	room, user := "/rooms/!none:a.example", url.PathEscape(string(anna.ID))
	recognised := func(method, path string) func() bool {
		return func() bool { return anna.Do(method, path, map[string]any{}).Str("errcode") != "M_UNRECOGNIZED" }
	}
	contains := func(path, text string) func() bool {
		return func() bool { return strings.Contains(string(anna.Do("GET", path, nil).Raw), text) }
	}
	rightReceipt := func(typ string, body map[string]any) func() bool {
		return func() bool { // not a member, which is asked after the form
			return anna.Do("POST", v3+room+"/receipt/"+typ+"/$e", body).Str("errcode") == "M_FORBIDDEN" &&
				anna.Do("POST", v3+room+"/receipt/m.other/$e", body).Str("errcode") == "M_INVALID_PARAM"
		}
	}
	masquerade := func() bool {
		as := "as-secret"
		c.Do("POST", v3+"/register", as, map[string]any{"type": "m.login.application_service", "username": "_bridge_v", "inhibit_login": true})
		c.Do("PUT", v3+"/devices/V?user_id=@_bridge_v:a.example", as, map[string]any{})
		return c.Do("GET", v3+"/account/whoami?user_id=@_bridge_v:a.example&device_id=V", as, nil).Str("device_id") == "V"
	}
	versions := map[string]func() bool{
		"v1.1":  recognised("POST", v3+"/knock/!none:a.example"),
		"v1.2":  recognised("GET", v1+room+"/hierarchy"),
		"v1.3":  recognised("GET", v1+room+"/relations/$e"),
		"v1.4":  recognised("GET", v1+room+"/threads"),
		"v1.5":  func() bool { return anna.Do("GET", v3+"/directory/room/noalias", nil).Status == 400 },
		"v1.6":  recognised("GET", v1+room+"/timestamp_to_event"),
		"v1.8":  func() bool { return anna.Do("POST", v3+room+"/report/$e", map[string]any{}).Status == 404 },
		"v1.9":  contains(v3+"/pushrules/", ".m.rule.suppress_edits"),
		"v1.10": recognised("GET", v1+room+"/relations/$e?recurse=true"),
		"v1.12": func() bool {
			return anna.Do("PUT", v3+"/user/"+user+room+"/account_data/m.marked_unread", map[string]any{"unread": true}).Status == 200
		},
		"v1.13": recognised("POST", v3+room+"/report"),
		"v1.14": recognised("POST", v3+"/users/"+user+"/report"),
		"v1.15": recognised("GET", v1+"/room_summary/!none:a.example"),
		"v1.16": recognised("DELETE", v3+"/profile/"+user+"/a.b"),
		"v1.17": masquerade,
		"v1.18": recognised("PUT", v3+room+"/send/m.room.redaction/t"),
		"v1.19": recognised("GET", v1+"/mutual_rooms"),
	}
	features := map[string]func() bool{
		"fi.mau.msc2659.stable":        recognised("POST", v1+"/appservice/bridge/ping"),
		"org.matrix.e2e_cross_signing": recognised("POST", v3+"/keys/device_signing/upload"),
		"org.matrix.msc2285.stable":    rightReceipt("m.read.private", map[string]any{}),
		"org.matrix.msc2432":           recognised("GET", v3+room+"/aliases"),
		"org.matrix.msc3440.stable":    recognised("GET", v1+room+"/threads"),
		"org.matrix.msc3771":           rightReceipt("m.read", map[string]any{"thread_id": "main"}),
		"org.matrix.msc3827.stable": func() bool {
			return anna.Do("POST", v3+"/publicRooms", map[string]any{"filter": map[string]any{"room_types": 5}}).Status == 400
		},
		"org.matrix.msc4140": recognised("GET", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"),
		"org.matrix.msc4151": recognised("POST", "/_matrix/client/unstable/org.matrix.msc4151"+room+"/report"),
		"org.matrix.msc3391": func() bool {
			return anna.Do("DELETE", "/_matrix/client/unstable/org.matrix.msc3391/user/"+user+"/account_data/m.none", nil).Status == 200
		},
		"org.matrix.msc4326":               masquerade,
		"org.matrix.msc3814":               recognised("GET", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
		"uk.tcpip.msc4133":                 recognised("GET", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/"+user+"/a.b"),
		"uk.tcpip.msc4133.stable":          recognised("GET", v3+"/profile/"+user+"/a.b"),
		"org.matrix.label_based_filtering": func() bool { return false }, // events are not filtered by labels
	}
	// Of /sync, which is another role's: testSyncStateAfter, testSyncThreads and TestSliding of services/app. Of media, which is another's,
	// too: TestAsynchronousUpload, TestUploadAndDownload, TestThumbnails and TestPreview of services/media. Of invites:
	// testInvitePermission of services/app. Of pushers: TestPushers and, in services/app, TestPush.
	elsewhere := []string{"org.matrix.msc4222", "org.matrix.msc3773", "org.matrix.simplified_msc3575", "v1.7", "v1.11", "org.matrix.msc3916.stable",
		"org.matrix.msc4155", "org.matrix.msc4380.stable", "org.matrix.msc3881", "org.matrix.msc4076"}

	var told struct {
		Versions []string        `json:"versions"`
		Features map[string]bool `json:"unstable_features"`
	}
	clienttest.Must(t, json.Unmarshal(c.Do("GET", "/_matrix/client/versions", "", nil).OK().Raw, &told))
	for version, there := range versions {
		if announced := slices.Contains(told.Versions, version); announced != there() {
			t.Errorf("%s: announced: %v", version, announced)
		}
	}
	for _, version := range told.Versions {
		if versions[version] == nil && !strings.HasPrefix(version, "r0.") && !slices.Contains(elsewhere, version) {
			t.Errorf("%s is announced and held to nothing", version)
		}
	}
	for feature, announced := range told.Features {
		switch there := features[feature]; {
		case there == nil:
			if announced && !slices.Contains(elsewhere, feature) {
				t.Errorf("%s is announced and held to nothing", feature)
			}
		case announced != there():
			t.Errorf("%s: announced: %v", feature, announced)
		}
	}
}
