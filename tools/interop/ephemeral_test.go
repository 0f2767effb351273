//go:build interop

package interop

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"hanse/tools/mxclient"
)

// Server-server API, "Typing Notifications", "Receipts", "Presence".
func TestEphemeral(t *testing.T) {
	bothWays(t, func(t *testing.T, on, from server) {
		owner, guest := newPerson(t, on), newPerson(t, from)
		room := enter(t, owner, guest, "11", "public")
		for _, pair := range [][2]*person{{owner, guest}, {guest, owner}} {
			writer, reader := pair[0], pair[1]
			writer.must(t, "type", writer.Typing(t.Context(), room, true, 20_000))
			reader.until(t, "typing", func() bool { return strings.Contains(reader.typing[room], writer.id) })
			writer.must(t, "stop typing", writer.Typing(t.Context(), room, false, 0))
			said := writer.say(t, room, "read this")
			reader.sees(t, room, said)
			reader.must(t, "read", reader.Receipt(t.Context(), room, "m.read", said))
			writer.until(t, "the receipt", func() bool {
				return strings.Contains(writer.receipt[room], said) && strings.Contains(writer.receipt[room], reader.id)
			})
			writer.must(t, "presence", writer.SetPresence(t.Context(), "unavailable", "at lunch"))
			reader.until(t, "presence", func() bool { return strings.Contains(reader.present[writer.id], "at lunch") })
		}
	})
}

// Server-server API, "Send-to-device messaging", "Device Management", "End-to-End Encryption".
func TestDevices(t *testing.T) {
	bothWays(t, func(t *testing.T, on, from server) {
		owner, guest := newPerson(t, on), newPerson(t, from)
		enter(t, owner, guest, "11", "public")
		for _, pair := range [][2]*person{{owner, guest}, {guest, owner}} {
			a, b := pair[0], pair[1]
			_, device, err := a.Whoami(t.Context())
			a.must(t, "whoami", err)
			b.mu.Lock()
			before := b.devices[a.id]
			b.mu.Unlock()
			keys := map[string]any{
				"user_id": a.id, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
				"keys":       map[string]string{"curve25519:" + device: strings.Repeat("A", 43), "ed25519:" + device: strings.Repeat("B", 43)},
				"signatures": map[string]any{a.id: map[string]string{"ed25519:" + device: strings.Repeat("C", 86)}},
			}
			one := map[string]any{"key": strings.Repeat("D", 43), "signatures": map[string]any{a.id: map[string]string{"ed25519:" + device: strings.Repeat("E", 86)}}}
			a.must(t, "upload keys", a.Do(t.Context(), mxclient.Call{Method: http.MethodPost, Path: "/_matrix/client/v3/keys/upload",
				Body: map[string]any{"device_keys": keys, "one_time_keys": map[string]any{"signed_curve25519:AAAAAQ": one}}}))
			b.until(t, "the change of devices", func() bool { return b.devices[a.id] > before })

			var queried struct {
				DeviceKeys map[string]map[string]struct {
					Keys map[string]string `json:"keys"`
				} `json:"device_keys"`
			}
			b.must(t, "query keys", b.Do(t.Context(), mxclient.Call{Method: http.MethodPost, Path: "/_matrix/client/v3/keys/query",
				Body: map[string]any{"device_keys": map[string][]string{a.id: {}}}, Out: &queried}))
			if got := queried.DeviceKeys[a.id][device].Keys["ed25519:"+device]; got != strings.Repeat("B", 43) {
				t.Errorf("%s finds %q as the key of %s", b.server.name, got, device)
			}
			var claimed struct {
				Keys map[string]map[string]map[string]any `json:"one_time_keys"`
			}
			b.must(t, "claim a key", b.Do(t.Context(), mxclient.Call{Method: http.MethodPost, Path: "/_matrix/client/v3/keys/claim",
				Body: map[string]any{"one_time_keys": map[string]map[string]string{a.id: {device: "signed_curve25519"}}}, Out: &claimed}))
			if claimed.Keys[a.id][device]["signed_curve25519:AAAAAQ"] == nil {
				t.Errorf("%s claims %v", b.server.name, claimed.Keys)
			}
			b.must(t, "send to device", b.SendToDevice(t.Context(), "m.test", "t"+url.QueryEscape(b.id), map[string]map[string]any{a.id: {device: map[string]string{"secret": b.id}}}))
			a.until(t, "the to-device message", func() bool {
				for _, e := range a.toMe {
					if e.Type == "m.test" && strings.Contains(string(e.Content), b.id) {
						return true
					}
				}
				return false
			})
		}
	})
}

// Server-server API, "Querying for information", "Public Room Directory".
func TestDirectory(t *testing.T) {
	bothWays(t, func(t *testing.T, on, from server) {
		owner, guest := newPerson(t, on), newPerson(t, from)
		name := "hall" + owner.id[2:strings.IndexByte(owner.id, ':')]
		room, err := owner.CreateRoom(t.Context(), mxclient.NewRoom{RoomVersion: "11", Preset: "public_chat", Visibility: "public", AliasName: name, Name: name})
		owner.must(t, "create", err)
		owner.must(t, "set a name", owner.SetDisplayName(t.Context(), "Owner of "+name))
		joined, err := guest.Join(t.Context(), "#"+name+":"+on.serverName)
		guest.must(t, "join by alias", err)
		if joined != room {
			t.Errorf("the alias leads to %s, want %s", joined, room)
		}
		var profile struct{ Displayname string }
		guest.must(t, "read the profile", guest.Do(t.Context(), mxclient.Call{Method: http.MethodGet, Path: "/_matrix/client/v3/profile/" + url.PathEscape(owner.id), Out: &profile}))
		if profile.Displayname != "Owner of "+name {
			t.Errorf("profile %+v", profile)
		}
		var list struct {
			Chunk []struct {
				RoomID string `json:"room_id"`
			}
		}
		guest.must(t, "read the public rooms", guest.Do(t.Context(), mxclient.Call{Method: http.MethodPost, Path: "/_matrix/client/v3/publicRooms",
			Query: url.Values{"server": {on.serverName}}, Body: map[string]any{"limit": 100}, Out: &list}))
		for _, r := range list.Chunk {
			if r.RoomID == room {
				return
			}
		}
		t.Errorf("%s does not list %s of %s", from.name, room, on.name)
	})
}
