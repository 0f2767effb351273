//go:build interop

package interop

import (
	"context"
	"fmt"
	"testing"
	"time"

	"hanse/tools/e2e/people"
	"hanse/tools/mxclient"
)

// End-to-end encryption between the two servers, with clients that others wrote, each with its own crypto.
func TestEncryption(t *testing.T) {
	h, s := sides()
	hosts := make(map[people.Kind]*people.Host)
	for _, kind := range []people.Kind{people.Go, people.JS} {
		host, err := people.Start(kind, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := host.Close(); err != nil {
				t.Error(err)
			}
		})
		hosts[kind] = host
	}
	for _, c := range []struct {
		on, from   server
		owner, who people.Kind
	}{{h, s, people.Go, people.JS}, {s, h, people.JS, people.Go}} {
		t.Run(fmt.Sprintf("room on %s, %s and %s", c.on.name, c.owner, c.who), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			encryptedTalk(ctx, t, enterWith(ctx, t, hosts[c.owner], c.on), enterWith(ctx, t, hosts[c.who], c.from), c.on)
		})
	}
}

// enterWith registers somebody on a server and logs in with a client of a kind.
func enterWith(ctx context.Context, t *testing.T, host *people.Host, on server) *people.Person {
	t.Helper()
	name := fmt.Sprintf("e%d", everybody.Add(1))
	if _, err := mxclient.New(on.baseURL, mxclient.Options{}).RegisterShared(ctx, on.secret, name, "interop-password-1", false); err != nil {
		t.Fatal(err)
	}
	p, err := host.Login(ctx, on.baseURL, name, "interop-password-1")
	if err != nil {
		t.Fatal(err)
	}
	do(ctx, t, p, "start", nil, nil)
	return p
}

func do(ctx context.Context, t *testing.T, p *people.Person, what string, in people.Args, out any) {
	t.Helper()
	if err := p.Do(ctx, what, in, out); err != nil {
		t.Fatalf("%s: %s: %v", p.UserID, what, err)
	}
}

func encryptedTalk(ctx context.Context, t *testing.T, owner, guest *people.Person, on server) {
	t.Helper()
	var created struct {
		Room string `json:"room_id"`
	}
	do(ctx, t, owner, "create_room", people.Args{"content": map[string]any{
		"preset": "private_chat", "invite": []string{guest.UserID},
		"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}},
	}}, &created)
	room := created.Room
	shown := func(p *people.Person, what string, fits func(*people.Note) bool) {
		t.Helper()
		if _, err := p.Until(ctx, what, fits); err != nil {
			t.Fatal(err)
		}
	}
	shown(owner, "the encryption", func(n *people.Note) bool { return n.Room == room && n.Type == "m.room.encryption" })
	shown(guest, "the invite", func(n *people.Note) bool { return n.Kind == "invite" && n.Room == room })
	do(ctx, t, guest, "join", people.Args{"room": room, "via": []string{on.serverName}}, nil)
	shown(owner, "the guest", func(n *people.Note) bool {
		return n.Room == room && n.Type == "m.room.member" && n.Sender == guest.UserID && n.Get("membership") == "join"
	})
	shown(guest, "the encryption", func(n *people.Note) bool { return n.Room == room && n.Type == "m.room.encryption" })
	for i := range 3 {
		for _, pair := range [][2]*people.Person{{owner, guest}, {guest, owner}} {
			text := fmt.Sprintf("secret %d of %s at %d", i, pair[0].UserID, time.Now().UnixNano())
			do(ctx, t, pair[0], "send", people.Args{"room": room, "type": "m.room.message", "content": map[string]string{"msgtype": "m.text", "body": text}}, nil)
			shown(pair[1], text, func(n *people.Note) bool {
				return n.Kind == "timeline" && n.Room == room && n.Get("body") == text && n.Decrypted
			})
		}
	}
}
