package room

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// Ways of servers that others wrote, or of broken ones; docs/interop.md says where the tests of others are.

// Server-server API, "Joining Rooms": a server in the room that does not let a user in, at either step and for whatever reason, is
// passed over for one that does. If nobody does, the user hears what the servers said of the request.
func TestJoinPassesOverServers(t *testing.T) {
	const three, cora = id.Server("three.test"), "@cora:three.test"
	n := newNetwork()
	a, b, c := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1), newFedCluster(t, n, three, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, endpoint := range []string{"make_join", "send_join"} {
		for name, refusal := range map[string]*merr.Error{
			"wants an origin":  merr.BadJSON("Event does not have an origin server name"), // tuwunel, of an event without one
			"forbids":          merr.Forbidden("not here"),
			"has left":         merr.NotFound("No such room"),
			"fails":            merr.Unknown("broken"),
			"lacks the method": merr.Unrecognized(http.StatusNotFound),
		} {
			t.Run(endpoint+" "+name, func(t *testing.T) {
				roomID := a.create("11", anna, "public")
				ok(c.join(roomID, cora, string(one)))
				carry(c, a, three, roomID, 0)
				n.refuse(one, endpoint, refusal)
				defer n.refuse(one, endpoint, nil)
				if _, err := b.join(roomID, bert, string(one)); err == nil {
					t.Fatal("joined through a server that refuses")
				} else if refusal.Status < 500 {
					wantCode(t, err, refusal.Code)
				}
				if m := b.membership(roomID, bert); m == "join" {
					t.Fatal("refused, and joined")
				}
				ok(b.join(roomID, bert, string(one), string(three)))
				sameState(t, b, c, roomID)
			})
		}
	}
}

// Server-server API, GET /make_join: the template of a server that does not say its origin becomes an event that says ours.
func TestTemplateWithoutOrigin(t *testing.T) {
	n := newNetwork()
	n.templates = func(event []byte) []byte {
		o, err := canonjson.ParseObject(event)
		if err != nil {
			t.Error(err)
		}
		return o.Without("origin", "origin_server_ts", "depth", "hashes").Bytes()
	}
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, version := range []string{"10", "11", "12"} {
		roomID := a.create(version, anna, "public")
		joined := must[*roomv1.SendResponse](t)(b.join(roomID, bert, string(one))) // serveSend demands the origin
		if e := a.event(roomID, id.Event(joined.EventIds[0])); e.Flags&roomdb.Rejected != 0 {
			t.Errorf("version %s: the join is rejected", version)
		}
		sameState(t, a, b, roomID)
	}
}

// Server-server API, POST /get_missing_events: a server that tells one event twenty times has told one, or none if that has no place
// behind what is known. What is missing still is a hole, which is filled from history.
func TestMissingEventsRepeat(t *testing.T) {
	for name, of := range map[string]func([]json.RawMessage) []json.RawMessage{
		"the first": func(told []json.RawMessage) []json.RawMessage { return told[:min(1, len(told))] },
		"the last":  func(told []json.RawMessage) []json.RawMessage { return told[max(0, len(told)-1):] },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			n.setOmit(false)
			a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
			n.answers("get_missing_events", func(truth any) any {
				return map[string]any{"events": slices.Repeat(of(truth.(map[string]any)["events"].([]json.RawMessage)), missingLimit)}
			})
			roomID, last := unheard(t, a, b, 40)
			if hole := b.newestHole(roomID); last.Flags != 0 || hole == nil || hole.Low > last.Place() {
				t.Fatalf("the last event is at %d with flags %d, the hole is %+v", last.Place(), last.Flags, hole)
			}
			if asked := n.askedFor("get_missing_events"); asked > missingAsks {
				t.Errorf("asked %d times", asked)
			}
			sameState(t, a, b, roomID)
			n.answers("get_missing_events", nil)
			backfillAll(t, b, roomID)
			inOrder(t, a, b, roomID)
			sameStates(t, a, b, roomID)
		})
	}
}
