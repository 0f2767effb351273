package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// Server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms": the event that a template becomes names its
// origin, as joins-v2.yaml, knocks.yaml and leaving-v2.yaml require and tuwunel checks, and keeps what the template carries.
// What the user is called is not for the other server to say.
func TestTemplateIsKept(t *testing.T) {
	n := newNetwork()
	n.templates = func(event []byte) []byte {
		o, err := canonjson.ParseObject(event)
		if err != nil {
			t.Error(err)
		}
		if origin, _ := o.String("origin"); origin != string(one) {
			t.Errorf("a template of origin %q", origin)
		}
		raw, _ := o.Get("content")
		content, err := canonjson.ParseObject(raw)
		if err != nil {
			t.Error(err)
		}
		content = content.With("displayname", []byte(`"Mallory"`)).With("org.example.in", []byte(`{"a":[1]}`))
		return o.With("content", content.Bytes()).With("org.example.out", []byte(`"kept"`)).With("event_id", []byte(`"$theirs"`)).
			With("sender", []byte(`"@mallory:one.test"`)).Bytes()
	}
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range roomversion.Supported() {
		t.Run("v"+version, func(t *testing.T) {
			roomID := a.create(version, anna, "public")
			kept(t, a, roomID, ok(b.join(roomID, bert, string(one))), "join")
			sameState(t, a, b, roomID)
			if rules, _ := roomversion.Get(version); rules.Knocking {
				roomID = a.create(version, anna, "knock")
				kept(t, a, roomID, ok(b.knock(roomID, bert, string(one))), "knock")
			}
			roomID = a.create(version, anna, "invite")
			ok(a.invite(roomID, anna, birgt))
			kept(t, a, roomID, ok(b.leave(roomID, birgt)), "leave")
		})
	}
}

// kept demands that another cluster has the event that somebody's request made, with what its template carried.
func kept(t *testing.T, at *cluster, roomID string, resp *roomv1.SendResponse, membership string) {
	t.Helper()
	e, err := at.read.EventByID(context.Background(), at.room(roomID), id.Event(resp.EventIds[0]))
	if err != nil {
		t.Fatal(err)
	}
	got := func(path string) string { return gjson.GetBytes(e.JSON, path).Raw }
	for path, want := range map[string]string{
		"origin": `"two.test"`, `org\.example\.out`: `"kept"`, `content.org\.example\.in`: `{"a":[1]}`, "content.displayname": "",
		"content.membership": fmt.Sprintf("%q", membership), "sender": fmt.Sprintf("%q", *e.StateKey),
	} {
		if got(path) != want {
			t.Errorf("%s: %s is %s, want %s", membership, path, got(path), want)
		}
	}
	if e.Flags&roomdb.Rejected != 0 {
		t.Errorf("%s: rejected", membership)
	}
}

// Server-server API, PUT /send_join and /send_knock: while we lack members we cannot tell the state before the event, nor say
// who may come in. A leave needs neither.
func TestPartialLetsNobodyIn(t *testing.T) {
	p := newPartialJoin(t, "11", 2, "ids")
	c := newFedCluster(t, p.n, three, 1)
	p.enter()
	const carl = "@carl:three.test"
	template := func(membership string) []byte {
		t.Helper()
		made, err := p.a.serve(t.Context(), p.n, "make_"+membership, []string{p.room, carl}, map[string][]string{"ver": {"11"}},
			&federationv1.DoRequest{Origin: string(three)})
		if err != nil {
			t.Fatal(err)
		}
		in, err := memberIntent(carl, carl, membership, nil, cause{})
		if err != nil {
			t.Fatal(err)
		}
		rules, _ := roomversion.Get("11")
		d, err := draftOf(made.(map[string]any)["event"].(json.RawMessage), rules, id.Room(p.room), in, membership)
		if err != nil {
			t.Fatal(err)
		}
		pdu, err := event.Build(*d, rules, three, c.names[three])
		if err != nil {
			t.Fatal(err)
		}
		return pdu.JSON
	}
	send := func(membership string, body []byte) error {
		_, err := p.b.serve(t.Context(), p.n, "send_"+membership, []string{p.room, "x"}, nil, &federationv1.DoRequest{Origin: string(three), Body: body})
		return err
	}
	join := template("join")
	wantCode(t, send("join", join), merr.CodePartialState)
	must[*roomv1.SendResponse](t)(p.a.setState(p.room, anna, "m.room.join_rules", "", `{"join_rule":"knock"}`))
	wantCode(t, send("knock", template("knock")), merr.CodePartialState)
	p.release()
	p.b.whole(p.room)
	if err := send("join", join); err != nil {
		t.Fatal(err)
	}
}

// Client-server API, "unsigned": the event that one's own join replaces is that of the state before it, though the room was not
// ours then.
func TestJoinReplaces(t *testing.T) {
	for _, omit := range []bool{false, true} {
		n := newNetwork()
		n.omit = omit
		a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
		ok := must[*roomv1.SendResponse](t)
		roomID := a.create("11", anna, "invite")
		replaced := func() string {
			t.Helper()
			joined := b.event(roomID, id.Event(ok(b.join(roomID, bert, string(one))).EventIds[0]))
			if joined.Replaces == 0 {
				t.Fatal("the join replaces nothing")
			}
			before, err := b.read.Events(t.Context(), joined.Part, []int64{joined.Replaces})
			if err != nil {
				t.Fatal(err)
			}
			if is := b.logged(roomID, joined.ID).PrevMembership; is != "invite" {
				t.Errorf("omitted %v: before %q", omit, is)
			}
			return string(before[joined.Replaces].ID)
		}
		invited := ok(a.invite(roomID, anna, bert)).EventIds[0]
		if got := replaced(); got != invited {
			t.Errorf("omitted %v: replaces %s, not the invite %s", omit, got, invited)
		}
		b.whole(roomID)
		left := ok(b.leave(roomID, bert))
		carry(b, a, two, roomID, left.Pos-1)
		invited = ok(a.invite(roomID, anna, bert)).EventIds[0]
		if got := replaced(); got != invited {
			t.Errorf("omitted %v, the second time: replaces %s, not the invite %s", omit, got, invited)
		}
		if r := b.whole(roomID); r.Joined != 2 || r.JoinedLocal != 1 {
			t.Errorf("omitted %v: %+v", omit, r)
		}
	}
}

// MSC4319: an invited user is shown who invites. Client-server API, "Stripped state".
func TestInviterIsShown(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, version := range []string{"11", "12"} {
		roomID := a.create(version, anna, "invite")
		must[*roomv1.SendResponse](t)(a.invite(roomID, anna, bert))
		shown := gjson.Get(b.stripped(roomID, bert), `#(type=="m.room.member")#`).Array()
		if len(shown) != 2 || shown[0].Get("state_key").Str != anna || shown[0].Get("content.displayname").Str != "x" || shown[1].Get("state_key").Str != bert {
			t.Errorf("v%s: %s", version, shown)
		}
	}
}

// Server-server API, PUT /v2/invite: a 400 about the form of the request is no fault of the client, which hears a 5xx. Other refusals
// are passed on.
func TestInviteNotUnderstood(t *testing.T) {
	n := newNetwork()
	a, _ := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, version := range []string{"1", "12"} {
		roomID := a.create(version, anna, "invite")
		for _, c := range []struct {
			refusal *merr.Error
			status  int
		}{
			{merr.MissingParam("invite_room_state"), http.StatusBadGateway},
			{merr.InvalidParam("invite_room_state has no m.room.create"), http.StatusBadGateway},
			{merr.Unknown("broken"), http.StatusBadGateway},
			{merr.Forbidden("not me"), http.StatusForbidden},
			{merr.IncompatibleRoomVersion(version), http.StatusBadRequest},
		} {
			n.refuse(two, "invite", c.refusal)
			_, err := a.invite(roomID, anna, bert)
			if m, ok := merr.As(err); !ok || m.Status != c.status {
				t.Errorf("v%s, %d %s: %v", version, c.refusal.Status, c.refusal.Code, err)
			}
		}
	}
}

// Server-server API, PUT /v2/invite: of a room with large state what fits goes along, m.room.create always.
func TestInviteShowsWhatFits(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("12", anna, "invite")
	for _, typ := range []string{"m.room.avatar", "m.room.topic", "m.room.encryption"} {
		ok(a.setState(roomID, anna, typ, "", `{"x":"`+strings.Repeat("x", 60_000)+`"}`))
	}
	ok(a.setState(roomID, anna, "m.room.name", "", `{"name":"small"}`))
	ok(a.invite(roomID, anna, bert))
	shown := b.stripped(roomID, bert)
	if len(shown) > maxShown+10_000 {
		t.Errorf("%d bytes are shown", len(shown))
	}
	for _, typ := range []string{"m.room.create", "m.room.name"} {
		if !gjson.Get(shown, `#(type=="`+typ+`")`).Exists() {
			t.Errorf("%s is not shown", typ)
		}
	}
}

// Client-server API, "Restricted rooms": who vouches for a join is not for the client to say. What it sends, such as the
// content of the join that it changes, is ignored.
func TestClientVouchesForNobody(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"7", "11"} {
		roomID := a.create(version, anna, "public")
		ok(b.join(roomID, bert, string(one)))
		for _, user := range []string{bert, birgt} { // one who is in the room, one who comes in
			content := fmt.Sprintf(`{"membership":"join","displayname":"B","join_authorised_via_users_server":%q,"org.example":1}`, anna)
			sent := ok(b.setState(roomID, user, "m.room.member", user, content)).EventIds[0]
			e := b.event(roomID, id.Event(sent))
			if gjson.GetBytes(e.Content, authorisedVia).Exists() || gjson.GetBytes(e.Content, `org\.example`).Int() != 1 {
				t.Errorf("v%s, %s: %s", version, user, e.Content)
			}
		}
	}
}
