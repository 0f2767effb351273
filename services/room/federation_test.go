package room

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

const (
	one   = id.Server("one.test")
	two   = id.Server("two.test")
	anna  = "@anna:one.test"
	bert  = "@bert:two.test"
	birgt = "@birgit:two.test"
)

func sameState(t testing.TB, a, b *cluster, roomID string) {
	t.Helper()
	x, y := a.state(roomID), b.state(roomID)
	if !maps.Equal(x, y) {
		for k, v := range x {
			if y[k] != v {
				t.Errorf("%s: %s here, %s there", k, v, y[k])
			}
		}
		for k, v := range y {
			if x[k] == "" {
				t.Errorf("%s: nothing here, %s there", k, v)
			}
		}
		t.FailNow()
	}
	a.checkAuth(roomID)
	b.checkAuth(roomID)
}

// checkAuth fails unless each event of a room has all of its auth events, under smaller numbers: the order on which the
// auth graph rests. Events whose auth events we do not know are no part of it.
func (c *cluster) checkAuth(roomID string) {
	c.tb.Helper()
	var wrong []string
	r := c.room(roomID)
	err := c.db.For(r.Part).QueryRow(context.Background(), `
SELECT coalesce(array_agg(format('%s %s %s', event_nid, auth, convert_from(json, 'UTF8'))), '{}') FROM event
WHERE part = $1 AND room_nid = $2 AND flags & 8 = 0
	AND (cardinality(auth) <> jsonb_array_length(convert_from(json, 'UTF8')::jsonb->'auth_events') OR event_nid <= ANY(auth))`,
		int32(r.Part), r.NID).Scan(&wrong)
	if err != nil || len(wrong) > 0 {
		c.tb.Fatalf("auth events of %d events: %s, %v", len(wrong), wrong, err)
	}
	g, err := c.read.AuthGraph(context.Background(), r.Key())
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, e := range c.stateEvents(roomID) {
		if i := g.Find(e.NID); i == authgraph.None || g.Key(i) != state.Key(e.Tuple()) {
			c.tb.Fatalf("the auth graph lacks %v, %d", e.Tuple(), e.NID)
		}
	}
}

// Two clusters in one room: join, talk both ways, cut, fork, heal, backfill, leave; in every version.
func TestFederatedRoom(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	for _, version := range roomversion.Supported() {
		t.Run("v"+version, func(t *testing.T) {
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create(version, anna, "public")
			for i := range 30 {
				ok(a.say(roomID, anna, fmt.Sprint("before ", i)))
			}
			ok(b.join(roomID, bert, string(one)))
			if m := b.membership(roomID, bert); m != "join" {
				t.Fatalf("joined: %q", m)
			}
			sameState(t, a, b, roomID)
			r := b.room(roomID)
			if r.Joined != 2 || r.JoinedLocal != 1 {
				t.Fatalf("room %+v", r)
			}
			ok(b.join(roomID, birgt))
			ok(b.say(roomID, bert, "hello from two"))
			fromB := carry(b, a, two, roomID, 0)
			atA := ok(a.say(roomID, anna, "hello from one"))
			fromA := carry(a, b, one, roomID, atA.Pos-1)
			sameState(t, a, b, roomID)

			// A cut: both sides change the same state.
			ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"one"}`))
			ok(a.setState(roomID, anna, "m.room.member", birgt, `{"membership":"ban"}`))
			ok(b.say(roomID, bert, "alone"))
			ok(b.setState(roomID, birgt, "m.room.member", birgt, `{"membership":"join","displayname":"B"}`))
			fromB = carry(b, a, two, roomID, fromB)
			carry(a, b, one, roomID, fromA)
			sameState(t, a, b, roomID)
			if m := b.membership(roomID, birgt); m != "ban" {
				t.Fatalf("banned on the other side: %q", m)
			}
			ok(b.say(roomID, bert, "healed"))
			carry(b, a, two, roomID, fromB)
			if x, y := a.room(roomID), b.room(roomID); len(x.Extremities) != 1 || len(y.Extremities) != 1 || x.Joined != 2 || y.Joined != 2 {
				t.Fatalf("rooms %+v %+v", x, y)
			}

			backfillAll(t, b, roomID)
			// What the banned user said meanwhile is soft-failed on the one side and part of the other.
			if x, y := len(a.timeline(roomID)), len(b.timeline(roomID)); x+1 != y {
				t.Fatalf("%d events here, %d there", x, y)
			}
			var last int64
			for _, e := range b.timeline(roomID) {
				if e.Ord < 0 && e.Depth < last {
					t.Fatalf("history out of order: depth %d after %d", e.Depth, last)
				}
				last = e.Depth
			}

			ok(b.leave(roomID, bert))
			if r := b.room(roomID); r.JoinedLocal != 0 {
				t.Fatalf("left: %+v", r)
			}
			carry(b, a, two, roomID, fromB)
			if r := a.room(roomID); r.Joined != 1 {
				t.Fatalf("left: %+v", r)
			}
			// Back again, with what happened meanwhile.
			ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"meanwhile"}`))
			ok(b.join(roomID, bert, string(one)))
			sameState(t, a, b, roomID)
		})
	}
}

func backfillAll(t *testing.T, c *cluster, roomID string) {
	t.Helper()
	for range 20 {
		complete := false
		err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 10})
			complete = resp.GetComplete()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if complete {
			return
		}
	}
	t.Fatal("the backfill does not end")
}

// Invites across servers: accepted, rejected, rejected while the other side is away.
func TestRemoteInvite(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, version := range []string{"1", "6", "10", "12"} {
		t.Run("v"+version, func(t *testing.T) {
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create(version, anna, "invite")
			_, err := b.join(roomID, bert, string(one))
			wantCode(t, err, merr.CodeForbidden)

			ok(a.invite(roomID, anna, bert))
			if m := b.membership(roomID, bert); m != "invite" {
				t.Fatalf("invited: %q", m)
			}
			ok(b.leave(roomID, bert))
			if m := b.membership(roomID, bert); m != "leave" {
				t.Fatalf("rejected: %q", m)
			}
			if r := a.room(roomID); r.Invited != 0 {
				t.Fatalf("rejected: %+v", r)
			}

			ok(a.invite(roomID, anna, birgt))
			n.setCut(one, true)
			ok(b.leave(roomID, birgt))
			n.setCut(one, false)
			if m := b.membership(roomID, birgt); m != "leave" {
				t.Fatalf("rejected alone: %q", m)
			}

			ok(a.invite(roomID, anna, bert))
			ok(b.join(roomID, bert))
			sameState(t, a, b, roomID)
			if m := b.membership(roomID, bert); m != "join" {
				t.Fatalf("accepted: %q", m)
			}
		})
	}
}

// Server-server API, "Inviting to a room", PUT /v2/invite: a server that answers 400 or 404 may be older, and is asked by
// version 1 if the room is of version 1 or 2.
func TestRemoteInviteV1(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, c := range []struct {
		version string
		answer  *merr.Error
		invited bool
		asked   int
	}{
		{"1", merr.Unrecognized(404), true, 2},
		{"2", merr.Unrecognized(400), true, 2},
		{"1", merr.Forbidden("not here"), false, 1},
		{"3", merr.Unrecognized(404), false, 1},
		{"12", merr.Unrecognized(400), false, 1},
	} {
		t.Run(fmt.Sprintf("v%s/%d", c.version, c.answer.Status), func(t *testing.T) {
			n.mu.Lock()
			n.old, n.asked["invite"] = c.answer, 0
			n.mu.Unlock()
			roomID := a.create(c.version, anna, "invite")
			_, err := a.invite(roomID, anna, bert)
			if n.asked["invite"] != c.asked {
				t.Errorf("asked %d times", n.asked["invite"])
			}
			if !c.invited {
				if err == nil || a.room(roomID).Invited != 0 {
					t.Errorf("invited: %v", err)
				}
				return
			}
			if m := b.membership(roomID, bert); err != nil || m != "invite" {
				t.Fatalf("invited: %q, %v", m, err)
			}
			must[*roomv1.SendResponse](t)(b.join(roomID, bert))
			sameState(t, a, b, roomID)
		})
	}
}

// A restricted room over federation: the other server vouches for the user.
func TestRemoteRestricted(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"8", "10", "11", "12"} {
		space := a.create(version, anna, "public")
		roomID := a.create(version, anna, "invite")
		ok(a.setState(roomID, anna, "m.room.join_rules", "", fmt.Sprintf(
			`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space)))
		_, err := b.join(roomID, bert, string(one))
		wantCode(t, err, merr.CodeForbidden)
		ok(b.join(space, bert, string(one)))
		ok(b.join(roomID, bert, string(one)))
		sameState(t, a, b, roomID)
	}
}

// A knock, taken back, in a room of another server.
func TestRemoteKnock(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "knock")
	ok(b.knock(roomID, bert, string(one)))
	if m := b.membership(roomID, bert); m != "knock" {
		t.Fatalf("knocked: %q", m)
	}
	ok(a.invite(roomID, anna, bert))
	ok(b.join(roomID, bert))
	sameState(t, a, b, roomID)
}

// An event whose ancestors were lost: they are asked for; if they are too many, the state is.
func TestMissingEvents(t *testing.T) {
	for _, lost := range []int{3, 60} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			n := newNetwork()
			a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create("11", anna, "public")
			ok(b.join(roomID, bert, string(one)))
			for i := range lost {
				ok(a.say(roomID, anna, fmt.Sprint(i)))
				if i%10 == 0 {
					ok(a.setState(roomID, anna, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i)))
				}
			}
			last := ok(a.say(roomID, anna, "last"))
			carry(a, b, one, roomID, last.Pos-1)
			sameState(t, a, b, roomID)
			backfillAll(t, b, roomID)
			if x, y := len(a.timeline(roomID)), len(b.timeline(roomID)); x != y {
				t.Fatalf("%d events here, %d there", x, y)
			}
		})
	}
}

// An event joins what we lack to what we have, though that is no end of the room any more: the answer is not spent on what is
// before that (server-server API, POST /get_missing_events, "earliest_events").
func TestMissingBesideKnown(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	joined := ok(b.join(roomID, bert, string(one)))
	lacked := make(map[id.Event]bool)
	for i := range missingLimit - 2 {
		lacked[id.Event(ok(a.say(roomID, anna, fmt.Sprint("here ", i))).EventIds[0])] = true
	}
	for i := range missingLimit - 2 {
		ok(b.say(roomID, bert, fmt.Sprint("there ", i)))
	}
	carry(b, a, two, roomID, joined.Pos)
	ok(b.say(roomID, bert, "not carried"))
	last := ok(a.say(roomID, anna, "joins both"))
	carry(a, b, one, roomID, last.Pos-1)
	for _, e := range b.timeline(roomID) {
		delete(lacked, e.ID)
	}
	if len(lacked) > 0 {
		t.Errorf("%d events are missing", len(lacked))
	}
}

// Many extremities of a room are merged without anybody saying anything.
func TestManyExtremities(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("12", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	for _, f := range forge(t, b, roomID, b.last(roomID), 25) {
		a.take(roomID, two, f)
	}
	waitFor(t, func() bool { return len(a.room(roomID).Extremities) <= mergeAbove })
	ok(a.say(roomID, anna, "still here"))
	if n := len(a.room(roomID).Extremities); n != 1 {
		t.Fatalf("%d extremities", n)
	}
}
