package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// network connects test clusters as fedin and fedout would: requests go straight to the other cluster's room role.
type network struct {
	mu       sync.Mutex
	clusters map[id.Server]*cluster
	cut      map[id.Server]bool
	asked    map[string]int // requests by endpoint
	omit     bool           // members are omitted from the state that answers a join
	// lies are answers of a hostile server, by endpoint; nil: the truth.
	lies    map[string]func(args []string, q url.Values) any
	liar    id.Server     // who tells the lies; "": everybody
	held    chan struct{} // requests wait until it is closed
	holding chan struct{} // one for each request that waits
	old     *merr.Error   // what servers answer that do not know version 2 of invite
	// backOff are servers that are asked only if they are asked in spite of that.
	backOff map[id.Server]bool
	// refusals are what servers answer in spite of the truth, by server and endpoint.
	refusals map[string]*merr.Error
	// answered changes answers, by endpoint.
	answered map[string]func(any) any
	// templates changes the events that make_join and the like answer; nil: not.
	templates func(event []byte) []byte
	// strangers is the key of all servers that are no clusters.
	strangers *signing.Key
}

// chunks is an answer as it comes over the wire.
type chunks [][]byte

// hold makes requests wait until the channel is closed.
func (n *network) hold() chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held, n.holding = make(chan struct{}), make(chan struct{}, 100)
	return n.held
}

func (n *network) waitHeld(t *testing.T) {
	t.Helper()
	select {
	case <-n.holding:
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing was asked")
	}
}

func newNetwork() *network {
	return &network{omit: os.Getenv("PARTIAL") != "", clusters: make(map[id.Server]*cluster), cut: make(map[id.Server]bool), asked: make(map[string]int)}
}

// newFedCluster is a cluster of one server name in the network.
func newFedCluster(tb testing.TB, n *network, name id.Server, workers int) *cluster {
	return newFedClusterFaulty(tb, n, name, workers, faults{})
}

// lie makes the servers answer something else; nil to some endpoint is the truth again.
func (n *network) lie(lies map[string]func(args []string, q url.Values) any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lies = lies
}

// answers makes servers change what they answer to an endpoint; nil: they do not.
func (n *network) answers(endpoint string, change func(any) any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answered == nil {
		n.answered = make(map[string]func(any) any)
	}
	n.answered[endpoint] = change
}

// refuse makes a server answer an endpoint with an error; nil: with the truth again.
func (n *network) refuse(server id.Server, endpoint string, err *merr.Error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refusals == nil {
		n.refusals = make(map[string]*merr.Error)
	}
	n.refusals[string(server)+" "+endpoint] = err
}

// askedFor returns how often an endpoint was asked.
func (n *network) askedFor(endpoint string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[endpoint]
}

// newFedClusterFaulty is newFedCluster with faults. One of the clusters resolves everything without the lock (resolve_unlocked.go), which others
// do with what is large.
func newFedClusterFaulty(tb testing.TB, n *network, name id.Server, workers int, f faults) *cluster {
	c := &cluster{tb: tb, pg: pgtest.Config(tb, 1), nats: bustest.New(tb), names: newNames(tb, name), fedout: n, faults: f}
	if name == one {
		c.brief = nothing
	}
	c.open(workers)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clusters[name] = c
	return c
}

func (n *network) at(name id.Server) *cluster {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[name] {
		return nil
	}
	return n.clusters[name]
}

func (n *network) setCut(name id.Server, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[name] = cut
}

// setOmit says whether joins are answered without members.
func (n *network) setOmit(omit bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.omit = omit
}

// Keys implements federationv1.FedOutClient.
func (n *network) Keys(_ context.Context, in *federationv1.KeysRequest, _ ...grpc.CallOption) (*federationv1.KeysResponse, error) {
	resp := new(federationv1.KeysResponse)
	for _, q := range in.Queries {
		n.mu.Lock()
		c, key := n.clusters[id.Server(q.Server)], n.strangers
		n.mu.Unlock()
		if c != nil {
			key = c.names[id.Server(q.Server)]
		}
		if key != nil && key.ID == q.KeyId {
			resp.Keys = append(resp.Keys, &federationv1.ServerKey{Server: q.Server, KeyId: q.KeyId, PublicKey: key.Public(), ValidUntilMs: 1 << 50})
		}
	}
	return resp, nil
}

type answer struct {
	grpc.ClientStream
	messages []*federationv1.DoResponse
}

func (a *answer) Recv() (*federationv1.DoResponse, error) {
	if len(a.messages) == 0 {
		return nil, io.EOF
	}
	m := a.messages[0]
	a.messages = a.messages[1:]
	return m, nil
}

func (a *answer) Header() (metadata.MD, error) { return nil, nil }

// Do implements federationv1.FedOutClient.
func (n *network) Do(ctx context.Context, in *federationv1.DoRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[federationv1.DoResponse], error) {
	n.mu.Lock()
	backOff := n.backOff[id.Server(in.Destination)]
	n.mu.Unlock()
	if backOff && !in.IgnoreBackoff {
		st, err := status.New(codes.Unavailable, "backing off").WithDetails(&federationv1.Unreachable{Destination: in.Destination, Untried: true})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	c := n.at(id.Server(in.Destination))
	if c == nil || n.at(id.Server(in.Origin)) == nil {
		return nil, errors.New("no route to " + in.Destination)
	}
	u, err := url.Parse(in.Uri)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/_matrix/federation/"), "/")
	args := make([]string, 0, 2)
	for _, p := range parts[2:] {
		arg, err := url.PathUnescape(p)
		if err != nil {
			return nil, err
		}
		args = append(args, arg)
	}
	n.mu.Lock()
	n.asked[parts[1]]++
	held, holding, old := n.held, n.holding, n.old
	lie := n.lies[parts[1]]
	if n.liar != "" && n.liar != id.Server(in.Destination) {
		lie = nil
	}
	refusal := n.refusals[in.Destination+" "+parts[1]]
	n.mu.Unlock()
	if held != nil {
		holding <- struct{}{}
		<-held
	}
	var out any
	if lie != nil {
		out = lie(args, u.Query())
	}
	switch {
	case out != nil:
	case refusal != nil:
		err = refusal
	case parts[1] != "invite":
		out, err = c.serve(ctx, n, parts[1], args, u.Query(), in)
	case parts[0] == "v1":
		out, err = c.serveInviteV1(ctx, args[0], in)
	case old != nil:
		err = old
	default:
		out, err = c.serveInvite(ctx, args[0], in)
	}
	n.mu.Lock()
	change := n.answered[parts[1]]
	n.mu.Unlock()
	if change != nil && err == nil {
		out = change(out)
	}
	code := int32(200)
	if err != nil {
		m := merr.From(err)
		code, out = int32(m.Status), json.RawMessage(m.AppendJSON(nil))
	}
	if out, ok := out.(chunks); ok {
		a := &answer{messages: []*federationv1.DoResponse{{Status: code}}}
		for _, c := range out {
			a.messages = append(a.messages, &federationv1.DoResponse{Chunk: c})
		}
		return a, nil
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &answer{messages: []*federationv1.DoResponse{{Status: code}, {Chunk: body}}}, nil
}

// serve is a minimal federation API over the room role.
func (c *cluster) serve(ctx context.Context, n *network, endpoint string, args []string, q url.Values, in *federationv1.DoRequest) (any, error) {
	switch {
	case strings.HasPrefix(endpoint, "make_"):
		var resp *roomv1.MakeMembershipResponse
		err := c.call(ctx, args[0], func(ctx context.Context, r roomv1.RoomClient) (err error) {
			resp, err = r.MakeMembership(ctx, &roomv1.MakeMembershipRequest{RoomId: args[0], UserId: args[1],
				Membership: endpoint[len("make_"):], SupportedVersions: q["ver"], Origin: in.Origin})
			return err
		})
		if err != nil {
			return nil, err
		}
		if n.templates != nil {
			resp.Event = n.templates(resp.Event)
		}
		return map[string]any{"room_version": resp.RoomVersion, "event": json.RawMessage(resp.Event)}, nil
	case strings.HasPrefix(endpoint, "send_"):
		return c.serveSend(ctx, endpoint[len("send_"):], args[0], n.omit && q.Get("omit_members") == "true", in)
	case endpoint == "event":
		return c.serveEvent(ctx, id.Event(args[0]))
	}
	return c.serveGraph(ctx, endpoint, args, q, in)
}

func (c *cluster) serveSend(ctx context.Context, membership, roomID string, omit bool, in *federationv1.DoRequest) (any, error) {
	// As tuwunel does (joins-v2.yaml, leaving-v2.yaml, knocks.yaml: "origin" is required).
	if origin := gjson.GetBytes(in.Body, "origin").Str; origin != in.Origin {
		return nil, merr.BadJSON("Event does not have an origin server name")
	}
	var resp *roomv1.SendMembershipResponse
	err := c.call(ctx, roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.SendMembership(ctx, &roomv1.SendMembershipRequest{RoomId: roomID, Membership: membership, Event: in.Body, Origin: in.Origin})
		return err
	})
	if err != nil {
		return nil, err
	}
	if membership != "join" {
		return map[string]any{"knock_room_state": []any{}}, nil
	}
	if omit {
		return c.serveOmitted(ctx, roomID, resp)
	}
	state, chain, err := c.stateAndChain(ctx, resp.Part, resp.Sid)
	if err != nil {
		return nil, err
	}
	return map[string]any{"event": json.RawMessage(resp.Event), "state": raws(state), "auth_chain": raws(chain)}, nil
}

// serveOmitted answers a join without the members (server-server API, PUT /v2/send_join, "omit_members").
func (c *cluster) serveOmitted(ctx context.Context, roomID string, resp *roomv1.SendMembershipResponse) (any, error) {
	m, err := c.read.State(ctx, resp.Part, resp.Sid)
	if err != nil {
		return nil, err
	}
	state, err := c.read.StateEvents(ctx, resp.Part, m.Except(typeMember))
	if err != nil {
		return nil, err
	}
	join, err := c.read.EventsByID(ctx, resp.Part, []id.Event{id.Event(resp.EventId)})
	if err != nil {
		return nil, err
	}
	auth := slices.Clone(join[id.Event(resp.EventId)].Auth)
	for _, e := range state {
		auth = append(auth, e.Auth...)
	}
	chain, err := c.chain(ctx, resp.Part, auth)
	if err != nil {
		return nil, err
	}
	servers, err := c.read.Servers(ctx, resp.Part, c.room(roomID).NID)
	return map[string]any{"event": json.RawMessage(resp.Event), "state": raws(state), "auth_chain": raws(chain),
		"members_omitted": true, "servers_in_room": servers}, err
}

func (c *cluster) serveInvite(ctx context.Context, roomID string, in *federationv1.DoRequest) (any, error) {
	var body struct {
		Version string            `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if err := json.Unmarshal(in.Body, &body); err != nil {
		return nil, err
	}
	return c.receiveInvite(ctx, body.State, &roomv1.ReceiveInviteRequest{RoomId: roomID, RoomVersion: body.Version, Event: body.Event, Origin: in.Origin})
}

// serveInviteV1 answers version 1 of the endpoint, with the number in front.
func (c *cluster) serveInviteV1(ctx context.Context, roomID string, in *federationv1.DoRequest) (any, error) {
	var body struct {
		Unsigned struct {
			State []json.RawMessage `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := json.Unmarshal(in.Body, &body); err != nil {
		return nil, err
	}
	if len(body.Unsigned.State) == 0 {
		return nil, merr.BadJSON("no invite_room_state")
	}
	version := "1"
	if gjson.GetBytes(in.Body, `unsigned.invite_room_state.#(type=="m.room.create").content.room_version`).Str == "2" {
		version = "2"
	}
	out, err := c.receiveInvite(ctx, body.Unsigned.State, &roomv1.ReceiveInviteRequest{RoomId: roomID, RoomVersion: version, Event: in.Body, Origin: in.Origin})
	return []any{200, out}, err
}

func (c *cluster) receiveInvite(ctx context.Context, state []json.RawMessage, req *roomv1.ReceiveInviteRequest) (any, error) {
	for _, b := range state {
		req.InviteRoomState = append(req.InviteRoomState, b)
	}
	roomID := req.RoomId
	var resp *roomv1.ReceiveInviteResponse
	err := c.call(ctx, roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.ReceiveInvite(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"event": json.RawMessage(resp.Event)}, nil
}

func (c *cluster) serveEvent(ctx context.Context, eventID id.Event) (any, error) {
	for part := range c.db.P() {
		found, err := c.read.EventsByID(ctx, part, []id.Event{eventID})
		if err != nil {
			return nil, err
		}
		if e := found[eventID]; e != nil {
			return map[string]any{"pdus": []json.RawMessage{e.JSON}}, nil
		}
	}
	return nil, merr.NotFound("no such event")
}

func (c *cluster) serveGraph(ctx context.Context, endpoint string, args []string, q url.Values, in *federationv1.DoRequest) (any, error) {
	room, err := c.read.Room(ctx, id.Room(args[0]))
	if err != nil {
		return nil, merr.NotFound("no such room")
	}
	get := func(eventID string) (*roomdb.Event, error) {
		found, err := c.read.EventsByID(ctx, room.Part, []id.Event{id.Event(eventID)})
		if err == nil && found[id.Event(eventID)] == nil {
			err = merr.NotFound("no such event")
		}
		return found[id.Event(eventID)], err
	}
	switch endpoint {
	case "event_auth":
		e, err := get(args[1])
		if err != nil {
			return nil, err
		}
		chain, err := c.chain(ctx, room.Part, e.Auth)
		return map[string]any{"auth_chain": raws(chain)}, err
	case "state_ids", "state":
		e, err := get(q.Get("event_id"))
		if err != nil {
			return nil, err
		}
		state, chain, err := c.stateAndChain(ctx, room.Part, e.SID)
		if endpoint == "state" {
			return map[string]any{"pdus": raws(state), "auth_chain": raws(chain)}, err
		}
		return map[string]any{"pdu_ids": ids(state), "auth_chain_ids": ids(chain)}, err
	case "get_missing_events":
		var body struct {
			Earliest []string `json:"earliest_events"`
			Latest   []string `json:"latest_events"`
			Limit    int      `json:"limit"`
			MinDepth int64    `json:"min_depth"`
		}
		if err := json.Unmarshal(in.Body, &body); err != nil {
			return nil, err
		}
		events, err := c.ancestors(get, body.Latest, body.Earliest, body.Limit, false)
		c.mu.Lock()
		c.minDepths = append(c.minDepths, body.MinDepth)
		c.mu.Unlock()
		return map[string]any{"events": raws(events)}, err
	case "backfill":
		limit, _ := strconv.Atoi(q.Get("limit"))
		events, err := c.ancestors(get, q["v"], nil, limit, true)
		return map[string]any{"pdus": raws(events)}, err
	}
	return nil, merr.Unrecognized(404)
}

func (c *cluster) ancestors(get func(string) (*roomdb.Event, error), from, until []string, limit int, itself bool) ([]*roomdb.Event, error) {
	seen := map[string]bool{}
	for _, u := range until {
		seen[u] = true
	}
	var out []*roomdb.Event
	next := from
	first := map[string]bool{}
	for _, f := range from {
		first[f] = !itself
	}
	for len(next) > 0 && len(out) < limit {
		at := next[0]
		next = next[1:]
		if seen[at] {
			continue
		}
		seen[at] = true
		e, err := get(at)
		if err != nil {
			continue
		}
		if !first[at] {
			out = append(out, e)
		}
		for _, p := range e.PrevEvents {
			next = append(next, string(p))
		}
	}
	return out, nil
}

func (c *cluster) stateAndChain(ctx context.Context, part uint32, sid int64) (state, chain []*roomdb.Event, err error) {
	m, err := c.read.State(ctx, part, sid)
	if err != nil {
		return nil, nil, err
	}
	if state, err = c.read.StateEvents(ctx, part, m.All()); err != nil {
		return nil, nil, err
	}
	var auth []int64
	for _, e := range state {
		auth = append(auth, e.Auth...)
	}
	chain, err = c.chain(ctx, part, auth)
	return state, chain, err
}

func (c *cluster) chain(ctx context.Context, part uint32, from []int64) ([]*roomdb.Event, error) {
	seen := map[int64]bool{}
	var out []*roomdb.Event
	for len(from) > 0 {
		var next []int64
		for _, nid := range from {
			if !seen[nid] {
				seen[nid] = true
				next = append(next, nid)
			}
		}
		events, err := c.read.InOrder(ctx, part, next)
		if err != nil {
			return nil, err
		}
		from = nil
		for _, e := range events {
			out = append(out, e)
			from = append(from, e.Auth...)
		}
	}
	return out, nil
}

func raws(events []*roomdb.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON
	}
	return out
}

func jsons(pdus []*event.PDU) [][]byte {
	out := make([][]byte, len(pdus))
	for i, p := range pdus {
		out[i] = p.JSON
	}
	return out
}

func ids(events []*roomdb.Event) []id.Event {
	out := make([]id.Event, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// receive hands events to a cluster as a transaction of another server would.
func (c *cluster) receive(roomID string, origin id.Server, pdus ...[]byte) []*roomv1.PduResult {
	c.tb.Helper()
	var resp *roomv1.ReceiveResponse
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Receive(ctx, &roomv1.ReceiveRequest{RoomId: roomID, Origin: string(origin), Pdus: pdus})
		return err
	})
	if err != nil {
		c.tb.Fatalf("receive: %v", err)
	}
	return resp.Results
}

// take demands that a cluster takes all of some events in, which come 50 at a time as those of transactions do (server-server
// API, PUT /send).
func (c *cluster) take(roomID string, origin id.Server, pdus ...*event.PDU) {
	c.tb.Helper()
	for some := range slices.Chunk(pdus, 50) {
		for _, r := range c.receive(roomID, origin, jsons(some)...) {
			if r.Error != "" {
				c.tb.Fatalf("event %s: %s", r.EventId, r.Error)
			}
		}
	}
}

// carry sends what a server's users did in a room since a position to another cluster.
func carry(from, to *cluster, origin id.Server, roomID string, after int64) int64 {
	from.tb.Helper()
	last := after
	var pdus []*event.PDU
	for _, e := range from.timeline(roomID) {
		if e.Ord > after {
			last = max(last, e.Ord)
			if e.Sender.Server() == origin {
				pdus = append(pdus, e.PDU)
			}
		}
	}
	to.take(roomID, origin, pdus...)
	return last
}

// whole waits until a room's members are known.
func (c *cluster) whole(roomID string) *roomdb.Room {
	c.tb.Helper()
	return c.wholeWithin(roomID, 2*time.Minute)
}

func (c *cluster) wholeWithin(roomID string, d time.Duration) *roomdb.Room {
	c.tb.Helper()
	r := c.room(roomID)
	for deadline := time.Now().Add(d); r.Partial(); r = c.room(roomID) {
		if time.Now().After(deadline) {
			c.tb.Fatalf("the members of %s do not come", roomID)
		}
		<-time.After(5 * time.Millisecond)
	}
	return r
}

func (c *cluster) stateEvents(roomID string) []*roomdb.Event {
	c.tb.Helper()
	r := c.whole(roomID)
	m, err := c.read.State(context.Background(), r.Part, r.SID)
	if err != nil {
		c.tb.Fatal(err)
	}
	events, err := c.read.StateEvents(context.Background(), r.Part, m.All())
	if err != nil {
		c.tb.Fatal(err)
	}
	return events
}

func (c *cluster) state(roomID string) map[string]id.Event {
	c.tb.Helper()
	out := make(map[string]id.Event)
	for _, e := range c.stateEvents(roomID) {
		out[fmt.Sprintf("%s|%s", e.Type, *e.StateKey)] = e.ID
	}
	return out
}
