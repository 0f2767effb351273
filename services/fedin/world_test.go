package fedin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/destination"
	"hanse/pkg/grpcx"
	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/servers"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/room"
)

const (
	fedv1Path = "/_matrix/federation/v1"
	fedv2Path = "/_matrix/federation/v2"
	ours      = id.Server("ours.test")
)

// inbound is a worker with the roles room and fedin over two shards, as other servers meet it.
type inbound struct {
	t      *testing.T
	url    string
	shards *pg.Shards
	users  *userdb.DB
	rooms  *roomdb.DB
	bus    *bus.Bus
	router *partition.Router
	dir    *roomdir.DB
	keys   *keyring.Store
	redis  *miniredis.Miniredis
	n      *atomic.Int64
}

func newInbound(t *testing.T) *inbound {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &inbound{t: t, n: new(atomic.Int64), shards: pgtest.NewSharded(t, 2), redis: miniredis.RunT(t)}
	w.bus = bustest.New(t).Open("worker")
	names, err := servers.Open(ctx, w.shards, []id.Server{ours}, nil)
	must(t, err)
	cfg := grpcx.Config{Listen: "127.0.0.1:0"}
	srv, err := grpcx.NewServer(cfg)
	must(t, err)
	conns := grpcx.NewConns(cfg, srv)
	members, err := partition.Join(partition.MembersConfig{Bus: w.bus, Timing: partition.Timing{Beat: 100 * time.Millisecond, TTL: 5 * time.Second},
		Self: partition.Member{ID: "worker", Addr: srv.Addr(), Roles: []string{"room", "fedin"}}})
	must(t, err)
	w.router = partition.NewRouter(partition.RouterConfig{Members: members, Rows: partition.NewRows(w.shards), Conns: conns, Timeout: 2 * time.Minute})
	states := state.NewStore(state.DefaultConfig(), nil)
	w.rooms = roomdb.Open(w.shards, states, roomdb.DefaultConfig(), nil)
	w.users = userdb.New(w.shards, w.bus)
	w.dir = roomdir.New(w.shards, w.rooms, nil)
	w.keys = keyring.NewStore(w.shards)
	owner, err := room.New(room.Defaults(), room.Deps{Shards: w.shards, States: states, DB: w.rooms, Bus: w.bus, Members: members,
		Router: w.router, Servers: names, FedOut: noWayOut{w.keys}})
	must(t, err)
	owner.Register(srv)
	in, err := New(Defaults(), Deps{Shards: w.shards, Users: w.users, Rooms: w.rooms, Directory: w.dir, Bus: w.bus,
		Redis: redis.NewClient(&redis.Options{Addr: w.redis.Addr()}), Router: w.router, Servers: names,
		Keys: keyring.New(keyring.Deps{Store: w.keys, Servers: names}), KeyStore: w.keys, Destinations: destination.New(w.shards, w.bus)})
	must(t, err)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "federation"})
	in.Routes(rt)
	web := httptest.NewServer(rt)
	w.url = web.URL
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve() })
	for _, run := range []func(context.Context) error{owner.Run, w.router.Run, in.Run} {
		done.Go(func() { _ = run(ctx) })
	}
	members.SetState(partition.Ready)
	t.Cleanup(func() {
		web.Close()
		members.SetState(partition.Draining)
		cancel()
		stop, end := context.WithTimeout(context.Background(), 5*time.Second)
		defer end()
		srv.Stop(stop)
		conns.Close()
		_ = members.Leave(stop)
		done.Wait()
	})
	return w
}

// noWayOut is a fedout that reaches nobody: it knows the keys that are stored.
type noWayOut struct{ keys *keyring.Store }

func (noWayOut) Do(context.Context, *fedv1.DoRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[fedv1.DoResponse], error) {
	return nil, status.Error(codes.Unavailable, "there is no way out")
}

func (n noWayOut) Keys(ctx context.Context, q *fedv1.KeysRequest, _ ...grpc.CallOption) (*fedv1.KeysResponse, error) {
	resp := new(fedv1.KeysResponse)
	for _, k := range q.Queries {
		found, err := n.keys.KeysOf(ctx, id.Server(k.Server))
		if err != nil {
			return nil, err
		}
		if have, ok := found[k.KeyId]; ok {
			resp.Keys = append(resp.Keys, &fedv1.ServerKey{Server: k.Server, KeyId: k.KeyId, PublicKey: have.Public, ValidUntilMs: have.ValidUntil})
		}
	}
	return resp, nil
}

// account makes a local user.
func (w *inbound) account(name string) id.User {
	w.t.Helper()
	u := id.NewUser(name, ours)
	_, err := w.users.CreateAccount(w.t.Context(), userdb.NewAccount{User: u, Displayname: name, CreatedTS: time.Now().UnixMilli()})
	must(w.t, err)
	return u
}

// owner calls the owner of a room.
func (w *inbound) owner(room id.Room, fn func(ctx context.Context, c roomv1.RoomClient) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	must(w.t, w.router.Call(ctx, partition.Of(string(room)), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return fn(ctx, roomv1.NewRoomClient(conn))
	}))
}

func (w *inbound) cause(u id.User) *roomv1.Cause {
	return &roomv1.Cause{UserId: string(u), Key: fmt.Sprint(w.n.Add(1))}
}

func intent(sender id.User, typ, key, content string) *roomv1.EventIntent {
	return &roomv1.EventIntent{Type: typ, StateKey: &key, Content: []byte(content), Sender: string(sender)}
}

// create makes a room with more state than the usual.
func (w *inbound) create(version string, creator id.User, joinRule string, more ...*roomv1.EventIntent) id.Room {
	w.t.Helper()
	levels := fmt.Sprintf(`{"users":{%q:100}}`, creator)
	if version == "12" {
		levels = `{"users":{}}`
	}
	req := &roomv1.CreateRequest{Creator: string(creator), RoomVersion: version, Cause: w.cause(creator), OriginServerTs: time.Now().UnixMilli(), Events: append([]*roomv1.EventIntent{
		intent(creator, "m.room.member", string(creator), `{"membership":"join"}`),
		intent(creator, "m.room.power_levels", "", levels),
		intent(creator, "m.room.join_rules", "", joinRule),
	}, more...)}
	var roomID id.Room
	w.owner("any", func(ctx context.Context, c roomv1.RoomClient) error {
		resp, err := c.Create(ctx, req)
		roomID = id.Room(resp.GetRoomId())
		return err
	})
	return roomID
}

func (w *inbound) send(room id.Room, sender id.User, in *roomv1.EventIntent) id.Event {
	w.t.Helper()
	in.Sender = string(sender)
	req := &roomv1.SendRequest{RoomId: string(room), Cause: w.cause(sender), Events: []*roomv1.EventIntent{in}}
	var eventID id.Event
	w.owner(room, func(ctx context.Context, c roomv1.RoomClient) error {
		resp, err := c.Send(ctx, req)
		if err == nil {
			eventID = id.Event(resp.EventIds[0])
		}
		return err
	})
	return eventID
}

func (w *inbound) say(room id.Room, sender id.User, text string) id.Event {
	w.t.Helper()
	return w.send(room, sender, &roomv1.EventIntent{Type: "m.room.message", Content: fmt.Appendf(nil, `{"msgtype":"m.text","body":%q}`, text)})
}

func (w *inbound) set(room id.Room, sender id.User, typ, content string) id.Event {
	w.t.Helper()
	return w.send(room, sender, intent(sender, typ, "", content))
}

// stored returns an event as it lies in the database; nil if there is none.
func (w *inbound) stored(room id.Room, eventID id.Event) *roomdb.Event {
	w.t.Helper()
	r, err := w.rooms.Room(w.t.Context(), room)
	must(w.t, err)
	found, err := w.rooms.EventsByID(w.t.Context(), r.Part, []id.Event{eventID})
	must(w.t, err)
	return found[eventID]
}

// peer is another server: it signs requests and events, and answers nothing.
type peer struct {
	w    *inbound
	name id.Server
	key  *signing.Key
}

// peer makes a server whose key is known already.
func (w *inbound) peer(name id.Server) *peer {
	w.t.Helper()
	key, err := signing.NewKey()
	must(w.t, err)
	must(w.t, w.keys.Put(w.t.Context(), name, map[string]keyring.Key{key.ID: {Public: key.Public(), ValidUntil: time.Now().Add(24 * time.Hour).UnixMilli()}},
		[]byte(`{}`), time.Now()))
	return &peer{w: w, name: name, key: key}
}

func (p *peer) user(name string) id.User { return id.NewUser(name, p.name) }

func (p *peer) do(method, uri string, body any) *reply {
	p.w.t.Helper()
	content := jsonOf(p.w.t, body)
	header, err := signing.SignRequest(method, uri, p.name, ours, content, p.key)
	must(p.w.t, err)
	req, err := http.NewRequestWithContext(p.w.t.Context(), method, p.w.url+uri, bytes.NewReader(content))
	must(p.w.t, err)
	req.Header.Set("Authorization", header)
	req.Host = string(ours)
	resp, err := http.DefaultClient.Do(req)
	must(p.w.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(p.w.t, err)
	return &reply{p.w.t, method + " " + uri, resp.StatusCode, raw}
}

// list are the texts at a path such as "pdu_ids" or "pdus.#.type".
func (r *reply) list(path string) []string {
	var out []string
	for _, v := range r.get(path).Array() {
		out = append(out, v.String())
	}
	return out
}

func fedPath(endpoint string, parts ...string) string {
	var b strings.Builder
	b.WriteString(fedv1Path + "/" + endpoint)
	for _, part := range parts {
		b.WriteString("/" + url.PathEscape(part))
	}
	return b.String()
}

// sign hashes and signs a template or draft as one of the peer's events.
func (p *peer) sign(template []byte, rules *roomversion.Rules) *event.PDU {
	p.w.t.Helper()
	var d struct {
		Room     id.Room         `json:"room_id"`
		Type     string          `json:"type"`
		StateKey *string         `json:"state_key"`
		Sender   id.User         `json:"sender"`
		Content  json.RawMessage `json:"content"`
		Depth    int64           `json:"depth"`
		Prev     []id.Event      `json:"prev_events"`
		Auth     []id.Event      `json:"auth_events"`
	}
	must(p.w.t, json.Unmarshal(template, &d))
	pdu, err := event.Build(event.Draft{RoomID: d.Room, Type: d.Type, StateKey: d.StateKey, Sender: d.Sender, Content: d.Content, Depth: d.Depth,
		OriginServerTS: time.Now().UnixMilli(), PrevEvents: d.Prev, AuthEvents: d.Auth}, rules, p.name, p.key)
	must(p.w.t, err)
	return pdu
}

// joined is a room that a user of the peer is in, as the peer knows it.
type joined struct {
	p     *peer
	room  id.Room
	user  id.User
	rules *roomversion.Rules
	last  *event.PDU
	auth  []id.Event // for messages of the user
}

// join brings a user of the peer into a room by make_join and send_join.
func (p *peer) join(room id.Room, user id.User) *joined {
	p.w.t.Helper()
	made := p.do("GET", fedPath("make_join", string(room), string(user))+"?ver=10&ver=11&ver=12", nil).ok()
	rules, ok := roomversion.Get(made.get("room_version").Str)
	if !ok {
		p.w.t.Fatalf("make_join: %s", made.raw)
	}
	pdu := p.sign([]byte(made.get("event").Raw), rules)
	answer := p.do("PUT", fedv2Path+"/send_join/"+url.PathEscape(string(room))+"/"+url.PathEscape(string(pdu.ID)), pdu.JSON).ok()
	j := &joined{p: p, room: room, user: user, rules: rules, last: pdu}
	for _, e := range answer.get("state").Array() {
		known, err := event.Parse([]byte(e.Raw), rules)
		must(p.w.t, err)
		if known.Type == "m.room.power_levels" || known.Type == "m.room.create" && !rules.RoomIDIsCreateHash {
			j.auth = append(j.auth, known.ID)
		}
	}
	j.auth = append(j.auth, pdu.ID)
	return j
}

// event makes an event of the user after the last one.
func (j *joined) event(typ string, stateKey *string, content string) *event.PDU {
	j.p.w.t.Helper()
	return j.after([]id.Event{j.last.ID}, j.last.Depth+1, typ, stateKey, content)
}

func (j *joined) after(prev []id.Event, depth int64, typ string, stateKey *string, content string) *event.PDU {
	j.p.w.t.Helper()
	pdu, err := event.Build(event.Draft{RoomID: j.room, Type: typ, StateKey: stateKey, Sender: j.user, Content: json.RawMessage(content), Depth: depth,
		OriginServerTS: time.Now().UnixMilli(), PrevEvents: prev, AuthEvents: j.auth}, j.rules, j.p.name, j.p.key)
	must(j.p.w.t, err)
	return pdu
}

func (j *joined) message(text string) *event.PDU {
	j.p.w.t.Helper()
	return j.event("m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))
}

// transaction sends PDUs and EDUs.
func (p *peer) transaction(pdus [][]byte, edus ...any) *reply {
	p.w.t.Helper()
	return p.do("PUT", fedPath("send", fmt.Sprint("txn", p.w.n.Add(1))), p.body(pdus, edus...))
}

func (p *peer) body(pdus [][]byte, edus ...any) map[string]any {
	raw := make([]json.RawMessage, len(pdus))
	for i, b := range pdus {
		raw[i] = b
	}
	if edus == nil {
		edus = []any{}
	}
	return map[string]any{"origin": p.name, "origin_server_ts": time.Now().UnixMilli(), "pdus": raw, "edus": edus}
}

// edu is an EDU.
func eduOf(typ string, content any) map[string]any {
	return map[string]any{"edu_type": typ, "content": content}
}
