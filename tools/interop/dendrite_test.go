//go:build interop

package interop

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"hanse/pkg/freeport"
	"hanse/tools/cluster"
)

// dendrite is a Dendrite with SQLite ('make bin/dendrite'), started by the first test that wants it.
type dendrite struct {
	child
	serverName string
	secret     string
}

const dendriteConfig = `
version: 2
global:
  server_name: %[1]q
  private_key: signing.pem
  presence: {enable_inbound: true, enable_outbound: true}
  jetstream: {storage_path: ./}
client_api:
  registration_disabled: true
  registration_shared_secret: %[2]q
  rate_limiting: {enabled: false}
federation_api:
  prefer_direct_fetch: true
  database: {connection_string: "file:federationapi.db"}
key_server: {database: {connection_string: "file:keyserver.db"}}
media_api:
  base_path: ./media
  database: {connection_string: "file:mediaapi.db"}
mscs: {database: {connection_string: "file:mscs.db"}}
relay_api: {database: {connection_string: "file:relayapi.db"}}
room_server:
  default_room_version: "11"
  database: {connection_string: "file:roomserver.db"}
sync_api: {database: {connection_string: "file:syncapi.db"}}
user_api:
  bcrypt_cost: 4
  account_database: {connection_string: "file:userapi_accounts.db"}
logging: [{type: std, level: info}]
`

// newDendrite lays a Dendrite out in dir; start runs it.
func newDendrite(dir string, ca *cluster.CA) (*dendrite, error) {
	binary, err := filepath.Abs("../../bin/dendrite")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("%w: run 'make bin/dendrite'", err)
	}
	client, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	federation, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	cert, key, err := ca.IssueFiles(dir, "dendrite", "127.0.0.1", "localhost")
	if err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &dendrite{
		child: child{
			name: "Dendrite", dir: dir, logs: []string{"output.log"}, baseURL: "http://" + client, env: []string{"SSL_CERT_FILE=" + ca.CertFile},
			command: []string{binary, "-config", "dendrite.yaml", "-http-bind-address", client, "-https-bind-address", federation, "-tls-cert", cert, "-tls-key", key},
		},
		serverName: federation, secret: "interop-secret",
	}
	signing := pem.EncodeToMemory(&pem.Block{Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:interop"}, Bytes: private.Seed()})
	return d, errors.Join(
		os.WriteFile(filepath.Join(dir, "signing.pem"), signing, 0o600),
		os.WriteFile(filepath.Join(dir, "dendrite.yaml"), fmt.Appendf(nil, dendriteConfig, d.serverName, d.secret), 0o600),
	)
}

// startThird starts Dendrite the first time.
var startThird = sync.OnceValue(func() (err error) {
	dir := filepath.Join(home, "dendrite")
	if err = os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if third, err = newDendrite(dir, authority); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return third.start(ctx)
})

// thirdSide is Dendrite's side.
func thirdSide(t *testing.T) server {
	t.Helper()
	if err := startThird(); err != nil {
		t.Fatal(err)
	}
	return server{"dendrite", third.serverName, third.baseURL, third.secret}
}

// besideDendrite runs a test with the room on Hanse and on Dendrite.
func besideDendrite(t *testing.T, f func(t *testing.T, on, from server)) {
	t.Helper()
	beside(t, thirdSide(t), f)
}

// Server-server API, "Joining Rooms", "Inviting to a room", "Leaving Rooms", "Backfilling and retrieving missing events", in the newer
// ones of the room versions that Dendrite 0.13 has. Its users cannot knock.
func TestDendriteRooms(t *testing.T) {
	for _, version := range []string{"10", "11"} {
		for _, rule := range []string{"public", "invite", "restricted"} {
			t.Run(fmt.Sprintf("version %s %s", version, rule), func(t *testing.T) {
				t.Parallel()
				besideDendrite(t, func(t *testing.T, on, from server) { room(t, on, from, version, rule) })
			})
		}
	}
}

func TestDendriteBackfill(t *testing.T)     { besideDendrite(t, backfill) }
func TestDendriteModeration(t *testing.T)   { besideDendrite(t, moderation) }
func TestDendriteRejectInvite(t *testing.T) { besideDendrite(t, rejectInvite) }

// Server-server API, "Device Management", "End-to-End Encryption".
func TestDendriteCrossSigningLater(t *testing.T) { besideDendrite(t, crossSigningLater) }
func TestDendriteRoomSharedAgain(t *testing.T)   { besideDendrite(t, roomSharedAgain) }

// An event that a receiver cannot verify does not hold up what comes behind it: Dendrite answers 401 to a transaction with this
// key in an event's content, as often as it is sent.
func TestDendriteOddKey(t *testing.T) {
	h, _ := sides()
	owner, guest := newPerson(t, h), newPerson(t, thirdSide(t))
	room := enter(t, owner, guest, "11", "public")
	guest.sees(t, room, owner.say(t, room, "before"))
	odd, err := owner.Send(t.Context(), room, "m.room.message", fmt.Sprint("odd", everybody.Add(1)),
		map[string]string{"msgtype": "m.text", "body": "odd", "k\x00\"\\": "value"})
	owner.must(t, "send an odd key", err)
	owner.sees(t, room, odd)
	guest.sees(t, room, owner.say(t, room, "behind"))
	owner.sees(t, room, guest.say(t, room, "answer"))
	_, err = guest.Event(t.Context(), room, odd)
	t.Logf("Dendrite has the event: %t (%v)", err == nil, err)
}
