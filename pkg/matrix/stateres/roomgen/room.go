package roomgen

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/matrix/stateres"
)

// Content is the content of an event.
type Content = map[string]any

// Room is the graph of a room with the state after each event. It implements
// [stateres.Source]. It is not safe for concurrent changes.
type Room struct {
	Rules *roomversion.Rules
	// ID is set once the create event exists.
	ID id.Room
	// Create is the create event.
	Create *event.PDU
	// Events are in the order of their creation, which is a topological order.
	Events []*event.PDU
	// After is the state after each event.
	After map[id.Event]stateres.Set
	// Now is the origin_server_ts of the next event; Send moves it on.
	Now int64

	byID        map[id.Event]*event.PDU
	rejected    map[id.Event]bool
	extremities []id.Event
}

// New makes a room of a version with its create event; content is added to what
// the version needs in it.
func New(version string, creator id.User, content Content) (*Room, error) {
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("room version %q is not known", version)
	}
	r := &Room{
		Rules:    rules,
		After:    make(map[id.Event]stateres.Set),
		Now:      1_700_000_000_000,
		byID:     make(map[id.Event]*event.PDU),
		rejected: make(map[id.Event]bool),
	}
	c := Content{"room_version": version}
	if !rules.ImplicitCreator {
		c["creator"] = creator
	}
	maps.Copy(c, content)
	if !rules.RoomIDIsCreateHash {
		r.ID = id.Room("!generated:" + string(creator.Server()))
	}
	create, err := r.Send(creator, "m.room.create", Key(""), c)
	if err != nil {
		return nil, err
	}
	r.Create, r.ID = create, create.RoomID
	return r, nil
}

// Key is a state key for [Room.Send].
func Key(s string) *string { return &s }

// Event implements [stateres.Source].
func (r *Room) Event(e id.Event) (*event.PDU, error) {
	if ev := r.byID[e]; ev != nil {
		return ev, nil
	}
	return nil, stateres.ErrMissing
}

// Rejected implements [stateres.Source].
func (r *Room) Rejected(e id.Event) bool { return r.rejected[e] }

// Reject marks an event as rejected.
func (r *Room) Reject(e id.Event) { r.rejected[e] = true }

// Extremities are the events that no other event follows.
func (r *Room) Extremities() []id.Event { return slices.Clone(r.extremities) }

// States are the states after the extremities: what there is to resolve.
func (r *Room) States() []stateres.Set {
	sets := make([]stateres.Set, len(r.extremities))
	for i, e := range r.extremities {
		sets[i] = r.After[e]
	}
	return sets
}

// Before resolves the state before an event with the given previous events.
func (r *Room) Before(prev ...id.Event) (stateres.Set, error) {
	sets := make([]stateres.Set, len(prev))
	for i, p := range prev {
		if r.After[p] == nil {
			return nil, fmt.Errorf("no state after %s", p)
		}
		sets[i] = r.After[p]
	}
	return stateres.Resolve(r.Rules, sets, r)
}

// Lookup is a state as the authorisation rules read it.
func (r *Room) Lookup(s stateres.Set) auth.Lookup { return lookup{r, s} }

type lookup struct {
	room  *Room
	state stateres.Set
}

// StateEvent implements [auth.Lookup].
func (l lookup) StateEvent(typ, stateKey string) *event.PDU {
	return l.room.byID[l.state[event.Tuple{Type: typ, StateKey: stateKey}]]
}

// Send builds an event after the previous events (by default after all
// extremities) and adds it to the room. An event that is not authorised by the
// state before it is not added; the error is an [*auth.Error].
func (r *Room) Send(sender id.User, typ string, stateKey *string, content Content, prev ...id.Event) (*event.PDU, error) {
	if len(prev) == 0 {
		prev = r.Extremities()
	}
	before, err := r.Before(prev...)
	if err != nil {
		return nil, err
	}
	return r.SendIn(before, sender, typ, stateKey, content, prev...)
}

// SendIn is [Room.Send] by a server that believes in another state before the
// event, such as one that it got from somebody else.
func (r *Room) SendIn(before stateres.Set, sender id.User, typ string, stateKey *string, content Content, prev ...id.Event) (*event.PDU, error) {
	ev, err := r.build(before, sender, typ, stateKey, content, prev)
	for err == nil && r.byID[ev.ID] != nil { // the same event, at the same time
		r.Now++
		ev, err = r.build(before, sender, typ, stateKey, content, prev)
	}
	if err != nil {
		return nil, err
	}
	if err := r.authorise(ev, before); err != nil {
		return nil, err
	}
	r.add(ev, before, prev)
	return ev, nil
}

func (r *Room) build(before stateres.Set, sender id.User, typ string, stateKey *string, content Content, prev []id.Event) (*event.PDU, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	d := event.Draft{
		RoomID: r.ID, Type: typ, StateKey: stateKey, Sender: sender, Content: raw,
		OriginServerTS: r.Now, PrevEvents: prev, Depth: r.depth(prev) + 1,
	}
	for _, k := range auth.NeededByDraft(&d, r.Rules) {
		if e, ok := before[k]; ok {
			d.AuthEvents = append(d.AuthEvents, e)
		}
	}
	return r.sign(d)
}

// sign builds the event and adds the signature of the server that authorises a
// restricted join.
func (r *Room) sign(d event.Draft) (*event.PDU, error) {
	if err := r.references(&d); err != nil {
		return nil, err
	}
	server := d.Sender.Server()
	ev, err := event.Build(d, r.Rules, server, ServerKey(server))
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", d.Type, err)
	}
	for _, s := range ev.SigningServers() {
		if s == server {
			continue
		}
		if ev, err = event.Sign(ev, s, ServerKey(s)); err != nil {
			return nil, fmt.Errorf("sign %s: %w", d.Type, err)
		}
	}
	return ev, nil
}

func (r *Room) authorise(ev *event.PDU, before stateres.Set) error {
	authEvents := make([]*event.PDU, len(ev.AuthEvents))
	for i, a := range ev.AuthEvents {
		authEvents[i] = r.byID[a]
	}
	opts := auth.Options{Rejected: r.Rejected}
	if err := auth.CheckAuthEvents(ev, authEvents, opts); err != nil {
		return err
	}
	return auth.Check(ev, r.Lookup(before), opts)
}

// add puts an event that was authorised into the graph.
func (r *Room) add(ev *event.PDU, before stateres.Set, prev []id.Event) {
	after := before
	if ev.IsState() {
		after = maps.Clone(before)
		after[ev.Tuple()] = ev.ID
	}
	r.byID[ev.ID] = ev
	r.After[ev.ID] = after
	r.Events = append(r.Events, ev)
	r.extremities = slices.DeleteFunc(r.extremities, func(e id.Event) bool { return slices.Contains(prev, e) })
	r.extremities = append(r.extremities, ev.ID)
	r.Now++
}

func (r *Room) depth(prev []id.Event) int64 {
	var depth int64
	for _, p := range prev {
		depth = max(depth, r.byID[p].Depth)
	}
	return depth
}

// ServerKey is the signing key of a server: the same in every run.
func ServerKey(s id.Server) *signing.Key {
	seed := sha256.Sum256([]byte(s))
	return &signing.Key{ID: "ed25519:gen", Private: ed25519.NewKeyFromSeed(seed[:])}
}
