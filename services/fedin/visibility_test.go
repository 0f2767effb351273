package fedin

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Whether a server has a member who counts is the same whether it is followed from state to state or looked up in each,
// and costs what differs (client-server API, "Room history visibility").
func TestMembersSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memberships := map[int64]string{}
		looked := 0
		v := &serverView{server: "a.example", events: func(_ context.Context, _ uint32, nids []int64) (map[int64]*roomdb.Event, error) {
			out := make(map[int64]*roomdb.Event)
			key := ""
			for _, nid := range nids {
				looked++
				out[nid] = &roomdb.Event{NID: nid, PDU: &event.PDU{Type: "m.room.member", StateKey: &key,
					Content: []byte(fmt.Sprintf(`{"membership":%q}`, memberships[nid]))}}
			}
			return out, nil
		}}
		states := []state.Map{{}}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			m := rapid.SampledFrom(states).Draw(t, "from") // forks go back and forth
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				nid := int64(len(memberships) + 1)
				memberships[nid] = rapid.SampledFrom([]string{"join", "leave", "leave", "invite", "ban"}).Draw(t, "membership")
				user := id.NewUser(rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "user"), rapid.SampledFrom([]id.Server{"a.example", "b.example"}).Draw(t, "server"))
				m = m.Set(state.Key{Type: "m.room.member", StateKey: string(user)}, nid)
			}
			if rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
				m = m.Delete(state.Key{Type: "m.room.member", StateKey: "@x:a.example"})
			}
			states = append(states, m)
			setting := rapid.SampledFrom([]string{"joined", "joined", "joined", "invited"}).Draw(t, "setting")
			want := false
			for key, nid := range m.Type("m.room.member") {
				in := memberships[nid] == "join" || memberships[nid] == "invite" && setting == "invited"
				want = want || in && id.User(key.StateKey).Server() == "a.example"
			}
			if got, err := v.members.any(context.Background(), v, 0, m, setting); err != nil || got != want {
				t.Fatalf("%v, %v, want %v", got, err, want)
			}
			before := looked
			if again, err := v.members.any(context.Background(), v, 0, m, setting); err != nil || again != want || looked != before {
				t.Fatalf("the same again: %v, %v, %d events read", again, err, looked-before)
			}
		}
	})
}
