package peer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/tools/cluster"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
)

// fixture is a peer that serves, and the means to ask it.
type fixture struct {
	*testing.T
	ca     *cluster.CA
	l      *peer.Listener
	room   hugeroom.Config
	peer   *peer.Peer
	client *http.Client
}

func start(t *testing.T, version string, cfg peer.Config) *fixture {
	t.Helper()
	ca, err := cluster.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, ca: ca}
	if f.l, err = peer.Listen(t.Context(), ca, 0); err != nil {
		t.Fatal(err)
	}
	f.room = hugeroom.Scaled(300)
	f.room.Version, f.room.Names = version, hugeroom.LoopbackName(f.l.Port())
	cfg.Roots = ca.Pool()
	f.peer = f.of(cfg)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- f.peer.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	f.client = &http.Client{Transport: transport}
	return f
}

// of makes a peer with a copy of the room.
func (f *fixture) of(cfg peer.Config) *peer.Peer {
	f.Helper()
	room, err := hugeroom.New(f.room)
	if err != nil {
		f.Fatal(err)
	}
	return peer.New(f.l, room, cfg)
}

// ask makes a request to the i-th server and decodes the answer; it returns the status.
func (f *fixture) ask(i int, method, uri string, body, out any) int {
	f.Helper()
	raw, isRaw := body.([]byte)
	if body != nil && !isRaw {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			f.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(f.Context(), method, "https://"+string(f.room.Names(i))+uri, bytes.NewReader(raw))
	if err != nil {
		f.Fatal(err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	if out != nil && resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, out); err != nil {
			f.Fatalf("%s: %v in %.200s", uri, err, answer)
		}
	}
	return resp.StatusCode
}

func (f *fixture) in(do func(r *hugeroom.Room) error) {
	f.Helper()
	if err := f.peer.Room(do); err != nil {
		f.Fatal(err)
	}
}

// Server-server API, "Publishing Keys" and "Querying Keys Through Another Server": each name has keys of its own.
func TestKeys(t *testing.T) {
	f := start(t, "12", peer.Config{})
	for _, i := range []int{0, 1, f.room.Servers - 1} {
		name := f.room.Names(i)
		var raw json.RawMessage
		if s := f.ask(i, "GET", "/_matrix/key/v2/server", nil, &raw); s != 200 {
			t.Fatal(s)
		}
		if err := signing.VerifyJSON(raw, name, hugeroom.KeyID, hugeroom.ServerKey(name).Public()); err != nil {
			t.Error(err)
		}
	}
	var answer struct {
		Keys []json.RawMessage `json:"server_keys"`
	}
	query := map[string]any{"server_keys": map[string]any{string(f.room.Names(3)): struct{}{}, "unknown.example": struct{}{}}}
	if s := f.ask(0, "POST", "/_matrix/key/v2/query", query, &answer); s != 200 || len(answer.Keys) != 1 {
		t.Fatalf("%d, %d keys", s, len(answer.Keys))
	}
	for _, i := range []int{0, 3} {
		if err := signing.VerifyJSON(answer.Keys[0], f.room.Names(i), hugeroom.KeyID, hugeroom.ServerKey(f.room.Names(i)).Public()); err != nil {
			t.Error(err)
		}
	}
}

type joined struct {
	Omitted bool              `json:"members_omitted"`
	Servers []id.Server       `json:"servers_in_room"`
	Event   json.RawMessage   `json:"event"`
	State   []json.RawMessage `json:"state"`
	Chain   []json.RawMessage `json:"auth_chain"`
}

const guest = id.Server("guest.example")

// join makes a member of another server (server-server API, "Joining Rooms").
func (f *fixture) join(user id.User, query string) (*event.PDU, joined) {
	f.Helper()
	rules, _ := roomversion.Get(f.room.Version)
	var template struct {
		Version string `json:"room_version"`
		Event   struct {
			RoomID id.Room    `json:"room_id"`
			Prev   []id.Event `json:"prev_events"`
			Auth   []id.Event `json:"auth_events"`
			Depth  int64      `json:"depth"`
			TS     int64      `json:"origin_server_ts"`
		} `json:"event"`
	}
	var roomID id.Room
	f.in(func(r *hugeroom.Room) error { roomID = r.ID; return nil })
	if s := f.ask(0, "GET", fmt.Sprintf("/_matrix/federation/v1/make_join/%s/%s?ver=%s", roomID, user, f.room.Version), nil, &template); s != 200 {
		f.Fatal(s)
	}
	key, e := string(user), template.Event
	pdu, err := event.Build(event.Draft{RoomID: e.RoomID, Type: "m.room.member", StateKey: &key, Sender: user, Content: []byte(`{"membership":"join"}`),
		Depth: e.Depth, OriginServerTS: e.TS, PrevEvents: e.Prev, AuthEvents: e.Auth}, rules, guest, hugeroom.ServerKey(guest))
	if err != nil {
		f.Fatal(err)
	}
	var out joined
	if s := f.ask(0, "PUT", fmt.Sprintf("/_matrix/federation/v2/send_join/%s/%s%s", roomID, pdu.ID, query), pdu.JSON, &out); s != 200 {
		f.Fatal(s)
	}
	return pdu, out
}

func (f *fixture) parse(raw []json.RawMessage) []id.Event {
	f.Helper()
	rules, _ := roomversion.Get(f.room.Version)
	var out []id.Event
	for _, b := range raw {
		pdu, err := event.Parse(b, rules)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, pdu.ID)
	}
	return out
}

// A join is answered with the state before it and the auth chain of both; or without members ("members_omitted").
func TestJoin(t *testing.T) {
	for _, version := range []string{"10", "11", "12"} {
		f := start(t, version, peer.Config{OmitMembers: true})
		pdu, all := f.join(id.NewUser("full", guest), "")
		if all.Omitted || len(all.Servers) < f.room.Servers*9/10 || string(all.Event) != string(pdu.JSON) {
			t.Fatalf("answer %v, %d servers, event %s", all.Omitted, len(all.Servers), all.Event)
		}
		f.in(func(r *hugeroom.Room) error {
			before, err := r.Before(r.History())
			if err != nil {
				return err
			}
			want := r.Set(before)
			state, chain := f.parse(all.State), f.parse(all.Chain)
			if !slices.Equal(slices.Sorted(maps.Values(want)), slices.Sorted(slices.Values(state))) {
				t.Errorf("version %s: state of %d events, want %d", version, len(state), len(want))
			}
			numbers, unknown := r.Known(append(state, pdu.ID))
			if have, more := r.Known(chain); len(more)+len(unknown) > 0 || !slices.Equal(have, r.AuthChain(numbers...)) {
				t.Errorf("version %s: chain of %d events", version, len(chain))
			}
			if !slices.Equal(r.Ends(), []int{r.Number(pdu.ID)}) {
				t.Errorf("version %s: ends %v", version, r.Ends())
			}
			return nil
		})
		second, few := f.join(id.NewUser("partial", guest), "?omit_members=true")
		if !few.Omitted || len(few.State) > 20 || len(few.Servers) != len(all.Servers)+1 {
			t.Errorf("version %s: %v, state of %d events, %d servers", version, few.Omitted, len(few.State), len(few.Servers))
		}
		in := make(map[id.Event]bool)
		for _, e := range append(f.parse(few.State), f.parse(few.Chain)...) {
			if in[e] {
				t.Errorf("version %s: %s comes twice", version, e)
			}
			in[e] = true
		}
		for _, a := range second.AuthEvents {
			if !in[a] {
				t.Errorf("version %s: auth event %s of the join is missing", version, a)
			}
		}
	}
}

// What one asks about the graph is answered from it.
func TestGraph(t *testing.T) {
	f := start(t, "11", peer.Config{})
	var roomID, last, before string
	var state, chain int
	f.in(func(r *hugeroom.Room) error {
		n := r.Len()
		roomID, last, before = string(r.ID), string(r.PDU(n).ID), string(r.PDU(n-30).ID)
		numbers := hugeroom.Numbers(r.After(n - 1))
		state, chain = len(numbers), len(r.AuthChain(numbers...))
		return nil
	})
	lists := func(uri string, method string, body any) map[string][]json.RawMessage {
		t.Helper()
		raw := map[string]json.RawMessage{}
		if s := f.ask(1, method, "/_matrix/federation/v1/"+uri, body, &raw); s != 200 {
			t.Fatalf("%s: %d", uri, s)
		}
		out := map[string][]json.RawMessage{}
		for k, v := range raw {
			if strings.HasPrefix(string(v), "[") {
				var list []json.RawMessage
				if err := json.Unmarshal(v, &list); err != nil {
					t.Fatal(err)
				}
				out[k] = list
			}
		}
		return out
	}
	if got := lists("event/"+last, "GET", nil)["pdus"]; len(got) != 1 || string(f.parse(got)[0]) != last {
		t.Errorf("event: %s", got)
	}
	for _, uri := range []string{"state/", "state_ids/"} {
		got := lists(uri+roomID+"?event_id="+last, "GET", nil)
		if len(got["pdus"])+len(got["pdu_ids"]) != state || len(got["auth_chain"])+len(got["auth_chain_ids"]) != chain {
			t.Errorf("%s: %d, %d", uri, len(got["pdus"]), len(got["auth_chain"]))
		}
	}
	if got := lists("event_auth/"+roomID+"/"+last, "GET", nil)["auth_chain"]; len(got) < 4 {
		t.Errorf("event_auth: %d", len(got))
	}
	body := map[string]any{"earliest_events": []string{before}, "latest_events": []string{last}, "limit": 100}
	if got := lists("get_missing_events/"+roomID, "POST", body)["events"]; len(got) != 20 {
		t.Errorf("get_missing_events: %d", len(got))
	}
	if got := lists("backfill/"+roomID+"?limit=7&v="+last, "GET", nil)["pdus"]; len(got) != 7 || string(f.parse(got)[0]) != last {
		t.Errorf("backfill: %d", len(got))
	}
	for _, uri := range []string{"state/!other:x.example?event_id=" + last, "state/" + roomID + "?event_id=$x", "event/$x", "nothing"} {
		if s := f.ask(1, "GET", "/_matrix/federation/v1/"+uri, nil, nil); s != 404 {
			t.Errorf("%s: %d", uri, s)
		}
	}
}

// Events that one peer pushes become part of the other's room; what has no place there is refused.
func TestPush(t *testing.T) {
	failures := 2
	f := start(t, "12", peer.Config{Before: func(endpoint string, _ *http.Request) error {
		if endpoint == "send" && failures > 0 {
			failures--
			return merr.Unavailable("not now")
		}
		return nil
	}})
	other := f.of(peer.Config{Roots: f.ca.Pool()})
	forks, end := forked(t, other)
	to := peer.Pushing{To: f.room.Names(5), Origin: f.room.Names(0), PerTransaction: 7, Rate: 1000}
	got, err := other.Push(t.Context(), to, forks[0]...)
	if err != nil || len(got.Refused) > 0 || len(got.Taken) != 30 {
		t.Fatalf("%d taken, %v refused, %v", len(got.Taken), got.Refused, err)
	}
	f.peer.Deafen(true)
	if got, err = other.Push(t.Context(), to, forks[1][0]); err != nil || len(got.Refused) > 0 {
		t.Fatalf("to the deaf: %v, %v", got.Refused, err)
	}
	f.in(func(r *hugeroom.Room) error {
		if r.Len() != r.History()+30 {
			return errors.New("the deaf have heard")
		}
		return nil
	})
	f.peer.Deafen(false)
	if got, err = other.Push(t.Context(), to, end); err != nil || len(got.Refused) != 1 {
		t.Fatalf("an event without a place: %v, %v", got.Refused, err)
	}
	to.Origin = ""
	if got, err = other.Push(t.Context(), to, append(forks[1], end)...); err != nil || len(got.Refused) > 0 {
		t.Fatalf("%v refused, %v", got.Refused, err)
	}
	f.in(func(mine *hugeroom.Room) error {
		return other.Room(func(r *hugeroom.Room) error {
			if mine.Len() != r.Len() || !maps.Equal(mine.Set(mine.After(mine.Number(r.PDU(end).ID))), r.Set(r.After(end))) {
				return errors.New("the rooms differ")
			}
			return nil
		})
	})
	f.peer.Booked(func(b *peer.Book) {
		if len(b.Came) != 61 || len(b.Refused) != 0 || b.Requests["send"] != b.Transactions+2 || !b.Told[f.room.Names(5)] {
			t.Errorf("book: %d came, %v refused, %d requests, %d transactions", len(b.Came), b.Refused, b.Requests["send"], b.Transactions)
		}
	})
}

// forked makes two forks of 30 events, and one that heals them, at a peer.
func forked(t *testing.T, p *peer.Peer) (forks [][]int, end int) {
	t.Helper()
	err := p.Room(func(r *hugeroom.Room) (err error) {
		if forks, err = r.Forks(r.History(), 2, 30, hugeroom.Fierce); err != nil {
			return err
		}
		end, err = r.Heal(forks[0][29], forks[1][29])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return forks, end
}

// A deaf peer keeps what comes, in whatever order, and takes it when it catches up.
func TestCatchUp(t *testing.T) {
	f := start(t, "12", peer.Config{})
	other := f.of(peer.Config{Roots: f.ca.Pool()})
	forks, end := forked(t, other)
	push := func(numbers ...int) {
		t.Helper()
		got, err := other.Push(t.Context(), peer.Pushing{To: f.room.Names(5), Origin: f.room.Names(0)}, numbers...)
		if err != nil || len(got.Refused) > 0 {
			t.Fatalf("%v refused, %v", got.Refused, err)
		}
	}
	f.peer.Deafen(true)
	push(end)
	push(forks[1]...)
	push(forks[0][1:]...)
	if left, err := f.peer.CatchUp(); left != 30 || err != nil {
		t.Fatalf("%d left, %v", left, err)
	}
	push(forks[0][0])
	push(forks[1]...) // again: they are there
	if left, err := f.peer.CatchUp(); left != 0 || err != nil {
		t.Fatalf("%d left, %v", left, err)
	}
	f.in(func(mine *hugeroom.Room) error {
		return other.Room(func(r *hugeroom.Room) error {
			if !maps.Equal(mine.Set(mine.After(mine.Number(r.PDU(end).ID))), r.Set(r.After(end))) {
				return errors.New("the rooms differ")
			}
			return nil
		})
	})

	// An event that the room does not allow is not passed over in silence.
	var forged *event.PDU
	f.in(func(r *hugeroom.Room) (err error) {
		nobody := id.NewUser("nobody", f.room.Names(0))
		d := r.Template(hugeroom.Action{Sender: nobody, Type: "m.room.message", Content: json.RawMessage(`{}`)}, r.After(r.History()), []int{r.History()})
		forged, err = event.Build(d, r.Rules, nobody.Server(), r.Key(nobody.Server()))
		return err
	})
	f.ask(0, "PUT", "/_matrix/federation/v1/send/forged", map[string]any{"pdus": []json.RawMessage{forged.JSON}}, nil)
	if _, err := f.peer.CatchUp(); err == nil {
		t.Fatal("an event of a stranger is taken")
	}
}
