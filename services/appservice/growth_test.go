package appservice

import (
	"context"
	"fmt"
	"testing"

	"hanse/pkg/appservice"
	"hanse/pkg/growth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// A message, and the join of somebody who is no service's, cost the role the same among few services and among many, and no statement:
// there is no database here.
func TestInterestCostsNothing(t *testing.T) {
	person, joined := "@somebody:"+ours, "join"
	for what, ev := range map[string]*logv1.Event{
		"a message": {Type: "m.room.message", Sender: person},
		"a join":    {Type: "m.room.member", Sender: person, StateKey: &person, Membership: joined},
	} {
		growth.Flat(t, what, 10, 1000, 1.5, func(n int) growth.Cost {
			in := newInterest(nil, func(context.Context, id.Room) ([]id.Alias, error) { return nil, nil }, []id.Server{ours}, 1, 100_000)
			m := appservice.NewMatcher(several(t, n))
			in.match.Store(m)
			r := &room{id: "!room:" + ours, nid: 1, m: m}
			all := []int{n - 1}
			for i := range n {
				r.members = append(r.members, member{i, id.User(fmt.Sprintf("@bot%d:%s", i, ours))})
			}
			r.all.Store(&all)
			in.put(roomdb.RoomKey{NID: 1}, r)
			e := &logv1.Entry{Pos: 1, RoomNid: 1, RoomId: string(r.id), Body: &logv1.Entry_Event{Event: ev}}
			bytes, pieces := growth.Bytes(func() {
				services, err := in.of(t.Context(), m, 0, e)
				if err != nil || len(wanting(m, services, e)) != 1 {
					t.Fatal(services, err)
				}
			})
			return growth.Cost{"bytes": bytes, "pieces": pieces}
		})
	}
}
