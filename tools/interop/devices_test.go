//go:build interop

package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"hanse/pkg/matrix/canonjson"
	"hanse/tools/mxclient"
)

// device is somebody's device with its identity key.
type device struct {
	*person
	name string
	key  string // its public key, as the owner uploaded it last
}

func newDevice(t *testing.T, p *person) *device {
	t.Helper()
	_, name, err := p.Whoami(t.Context())
	p.must(t, "whoami", err)
	return &device{person: p, name: name}
}

func (d *device) post(t *testing.T, path string, body, out any) {
	t.Helper()
	d.must(t, path, d.Do(t.Context(), mxclient.Call{Method: http.MethodPost, Path: "/_matrix/client/v3" + path, Body: body, Out: out}))
}

// upload uploads an identity key that is made of one letter, such as unpadded base64 of 32 bytes can end with (A, E, I, ...).
func (d *device) upload(t *testing.T, letter string) {
	t.Helper()
	d.key = strings.Repeat(letter, 43)
	d.post(t, "/keys/upload", map[string]any{"device_keys": map[string]any{
		"user_id": d.id, "device_id": d.name, "algorithms": []string{"m.megolm.v1.aes-sha2"},
		"keys":       map[string]string{"curve25519:" + d.name: d.key, "ed25519:" + d.name: d.key},
		"signatures": map[string]any{d.id: map[string]string{"ed25519:" + d.name: strings.Repeat("Q", 86)}},
	}}, nil)
}

// another logs the user in on another device and returns it.
func (d *device) another(t *testing.T) *device {
	t.Helper()
	next, err := mxclient.New(d.server.baseURL, mxclient.Options{}).Login(t.Context(), d.id, "interop-password-1", "")
	d.must(t, "log in again", err)
	return newDevice(t, &person{Client: next, id: d.id, server: d.server})
}

// sign uploads cross-signing keys and returns the public master key.
func (d *device) sign(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	d.must(t, "make a key", err)
	self, _, err := ed25519.GenerateKey(rand.Reader)
	d.must(t, "make a key", err)
	b64 := base64.RawStdEncoding.EncodeToString
	key := func(usage string, public ed25519.PublicKey) map[string]any {
		return map[string]any{"user_id": d.id, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + b64(public): b64(public)}}
	}
	signed := key("self_signing", self)
	raw, err := canonjson.Marshal(signed)
	d.must(t, "sign a key", err)
	signed["signatures"] = map[string]any{d.id: map[string]string{"ed25519:" + b64(public): b64(ed25519.Sign(private, raw))}}
	d.post(t, "/keys/device_signing/upload", map[string]any{"master_key": key("master", public), "self_signing_key": signed, "auth": map[string]any{
		"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": d.id}, "password": "interop-password-1", // Dendrite wants it
	}}, nil)
	return b64(public)
}

// keys are what somebody finds of another user.
type keys struct {
	Devices map[string]map[string]struct {
		Keys map[string]string `json:"keys"`
	} `json:"device_keys"`
	Master map[string]struct {
		Keys map[string]string `json:"keys"`
	} `json:"master_keys"`
}

func (d *device) query(t *testing.T, of *device) keys {
	t.Helper()
	var k keys
	d.post(t, "/keys/query", map[string]any{"device_keys": map[string][]string{of.id: {}}}, &k)
	return k
}

// finds waits until somebody's client, told of a change, finds what it should.
func (d *device) finds(t *testing.T, of *device, told int, what string, ok func(keys) bool) {
	t.Helper()
	d.until(t, "device_lists: "+what, func() bool { return d.devices[of.id] > told })
	if k := d.query(t, of); !ok(k) {
		t.Errorf("%s was told of %s and finds %+v", d.server.name, what, k)
	}
}

// told is how often somebody was told of another user's devices.
func (d *device) told(of *device) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.devices[of.id]
}

// Server-server API, "End-to-End Encryption", m.signing_key_update: cross-signing keys that are uploaded later, alone, reach the
// other server.
func TestCrossSigningLater(t *testing.T) { bothWays(t, crossSigningLater) }

func crossSigningLater(t *testing.T, on, from server) {
	a, b := newDevice(t, newPerson(t, on)), newDevice(t, newPerson(t, from))
	enter(t, a.person, b.person, "11", "public")
	for _, pair := range [][2]*device{{a, b}, {b, a}} {
		owner, reader := pair[0], pair[1]
		before := reader.told(owner)
		owner.upload(t, "A")
		reader.finds(t, owner, before, "a device", func(k keys) bool { return k.Devices[owner.id][owner.name].Keys["ed25519:"+owner.name] == owner.key })
		before = reader.told(owner)
		master := owner.sign(t)
		reader.finds(t, owner, before, "cross-signing keys", func(k keys) bool { return k.Master[owner.id].Keys["ed25519:"+master] == master })
	}
}

// Server-server API, "Device Management": what changed of a user's devices while no room was shared is known when one is again,
// whoever had left.
func TestRoomSharedAgain(t *testing.T) { bothWays(t, roomSharedAgain) }

func roomSharedAgain(t *testing.T, on, from server) {
	for _, leaver := range []string{"owner", "reader"} {
		owner, reader := newDevice(t, newPerson(t, on)), newDevice(t, newPerson(t, from))
		room := enter(t, owner.person, reader.person, "11", "public")
		before := reader.told(owner)
		owner.upload(t, "A")
		reader.finds(t, owner, before, "a device", func(k keys) bool { return len(k.Devices[owner.id]) == 1 })
		gone := owner
		if leaver == "reader" {
			gone = reader
		} else { // somebody stays, so that the room can be joined again
			host := newPerson(t, on)
			_, err := host.Join(t.Context(), room)
			host.must(t, "join", err)
			reader.until(t, "who stays", func() bool { return reader.membership(room, host.id) == "join" })
		}
		gone.must(t, "leave", gone.Leave(t.Context(), room))
		reader.until(t, "the end", func() bool { return reader.rooms[room] == "leave" || reader.membership(room, owner.id) == "leave" })
		second := owner.another(t)
		second.upload(t, "E")
		before = reader.told(owner)
		_, err := gone.Join(t.Context(), room, on.serverName)
		gone.must(t, "join again", err)
		reader.finds(t, owner, before, "a device that came meanwhile", func(k keys) bool {
			return k.Devices[owner.id][second.name].Keys["ed25519:"+second.name] == second.key
		})
	}
}

// membership is what was told last of somebody's membership in a room. p.mu is held.
func (p *person) membership(room, user string) string {
	var content struct {
		Membership string `json:"membership"`
	}
	for _, e := range p.events[room] {
		if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == user {
			if json.Unmarshal(e.Content, &content) != nil {
				return ""
			}
		}
	}
	return content.Membership
}
