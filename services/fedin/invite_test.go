package fedin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

// counted allows so many actions of a kind and key.
type counted struct {
	mu    sync.Mutex
	kinds map[string]int
	used  map[string]int
}

func (c *counted) Allow(_ context.Context, kind, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used[kind+key]++; c.used[kind+key] > c.kinds[kind] {
		return merr.LimitExceeded(1000)
	}
	return nil
}

// Server-server API, "Inviting to a room": how often one server invites, and how often one user is invited, is bounded, with
// 429 for what is beyond.
func TestInvitesAreLimited(t *testing.T) {
	limits := &counted{kinds: map[string]int{"invite_from": 3, "invite_user": 2}, used: map[string]int{}}
	w := newWorker(t)
	w.fedin.limits = limits
	w.account("anna")
	w.account("bert")
	one, two := w.server("one.example"), w.server("two.example")
	rooms := 0
	invite := func(s *server, user id.User, size int) *reply {
		rooms++
		room, target := id.Room(fmt.Sprintf("!%d:%s", rooms, s.name)), string(user)
		sender := id.NewUser("x", s.name)
		rules, _ := roomversion.Get("10")
		pdu, err := event.Build(event.Draft{RoomID: room, Type: "m.room.member", Sender: sender, StateKey: &target,
			Content: []byte(`{"membership":"invite"}`), OriginServerTS: 1, Depth: 1}, rules, s.name, s.key)
		must(t, err)
		state := []any{map[string]any{"type": "m.room.topic", "state_key": "", "sender": sender, "content": map[string]string{"topic": strings.Repeat("x", size)}}}
		return s.do("PUT", "/_matrix/federation/v2/invite/"+string(room)+"/"+string(pdu.ID),
			map[string]any{"room_version": "10", "event": json.RawMessage(pdu.JSON), "invite_room_state": state})
	}
	taken := func(r *reply) { // the owner of the test's room answers that it has no such method
		t.Helper()
		if r.status == 429 || r.status == 413 {
			t.Errorf("%d %s", r.status, r.raw)
		}
	}
	invite(one, "@anna:a.example", 200_000).fails(413, merr.CodeTooLarge)
	taken(invite(one, "@anna:a.example", 10))
	invite(two, "@anna:a.example", 10).fails(429, merr.CodeLimitExceeded) // of anybody
	taken(invite(one, "@bert:a.example", 10))
	invite(one, "@bert:a.example", 10).fails(429, merr.CodeLimitExceeded) // of this server
	taken(invite(two, "@bert:a.example", 10))
}

// What waits for one user's answer is bounded, as a first sync brings it all.
func TestPendingInvitesAreBounded(t *testing.T) {
	w := newWorker(t)
	anna := w.account("anna")
	must(t, w.fedin.mayWait(t.Context(), anna, "!new:x"))
	_, err := w.users.Change(t.Context(), anna, func(tx *userdb.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, membership, event_nid, event_id, sender, pos, stripped, seq)
			SELECT $1, $2, '!' || n || ':x', 1, n, 'invite', n, '$' || n, '@x:x', 1, convert_to(repeat('x', 100000), 'UTF8'), $3 FROM generate_series(1, 84) n`, tx.Part, string(anna), tx.Seq)
		return err
	})
	must(t, err)
	if err := w.fedin.mayWait(t.Context(), anna, "!new:x"); !merr.HasCode(err, merr.CodeLimitExceeded) {
		t.Errorf("more than %d bytes wait: %v", userdb.MaxInviteBytes, err)
	}
	must(t, w.fedin.mayWait(t.Context(), anna, "!1:x")) // the same invite again
}
