//go:build interop

package interop

import (
	"fmt"
	"testing"

	"hanse/tools/mxclient"
)

// What others do to a membership while its server is not in the room: an invite is withdrawn, a knock is denied; and a knock
// that is taken back (server-server API, "Inviting to a room", "Knocking upon a room", "Leaving Rooms").
func TestEndedByOthers(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Parallel()
			bothWays(t, func(t *testing.T, on, from server) { ended(t, on, from, version) })
		})
	}
}

func ended(t *testing.T, on, from server, version string) {
	owner, guest := newPerson(t, on), newPerson(t, from)
	room, err := owner.CreateRoom(t.Context(), mxclient.NewRoom{RoomVersion: version, Preset: "private_chat",
		InitialState: []mxclient.StateEvent{{Type: "m.room.join_rules", Content: map[string]string{"join_rule": "knock"}}}})
	owner.must(t, "create", err)
	owner.must(t, "invite", owner.Invite(t.Context(), room, guest.id))
	guest.is(t, room, "invite")
	owner.must(t, "withdraw the invite", owner.Kick(t.Context(), room, guest.id, "a mistake"))
	guest.is(t, room, "leave")
	if _, err := guest.Join(t.Context(), room, on.serverName); !mxclient.IsCode(err, "M_FORBIDDEN") {
		t.Errorf("a withdrawn invite is accepted: %v", err)
	}

	knock := func() {
		t.Helper()
		guest.must(t, "knock", guest.Knock(t.Context(), room, "let me in", on.serverName))
		guest.is(t, room, "knock")
		owner.memberIs(t, room, guest.id, "knock")
	}
	knock()
	guest.must(t, "take the knock back", guest.Leave(t.Context(), room))
	guest.is(t, room, "leave")
	if from.name != "synapse" { // Synapse 1.163 tells no other server that a knock was taken back
		owner.memberIs(t, room, guest.id, "leave")
	}
	knock()
	owner.must(t, "deny the knock", owner.Kick(t.Context(), room, guest.id, "no"))
	// Synapse 1.163 neither tells another server that a knock was denied, nor takes it in: only withdrawn invites go both ways.
	owner.memberIs(t, room, guest.id, "leave")
	owner.must(t, "invite again", owner.Invite(t.Context(), room, guest.id))
	guest.is(t, room, "invite")
	guest.joins(t, room, owner)
	sameMembers(t, room, []string{owner.id, guest.id}, owner, guest)
}

// memberIs waits until somebody's membership is this in the room's state.
func (p *person) memberIs(t *testing.T, room, user, membership string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is %s at %s", user, membership, p.server.name), func() error {
		var content struct {
			Membership string `json:"membership"`
		}
		if err := p.StateContent(t.Context(), room, "m.room.member", user, &content); err != nil {
			return err
		}
		if content.Membership != membership {
			return fmt.Errorf("membership %q", content.Membership)
		}
		return nil
	})
}
