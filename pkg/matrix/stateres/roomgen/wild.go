package roomgen

import (
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

// Wild is a room in which servers claim what they like: state events with auth events that the specification would not
// select, that were superseded long ago, or of which there are two with one key; events that the rules refuse, some of
// them marked as rejected and all of them in states; members that invite one another in circles; branches that know of
// one another or not; ties in time and depth. Events are not signed, which makes it quick. It implements
// [stateres.Source].
type Wild struct {
	Rules  *roomversion.Rules
	Events []*event.PDU // in topological order; all are state events

	rand     Rand
	users    []id.User
	byID     map[id.Event]*event.PDU
	rejected map[id.Event]bool
	byKey    map[event.Tuple][]id.Event
	branches []stateres.Set
	past     []stateres.Set
}

// NewWild makes a wild room of the given number of events.
func NewWild(rand Rand, version string, events int) (*Wild, error) {
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("room version %q is not known", version)
	}
	w := &Wild{
		Rules: rules, rand: rand,
		byID: make(map[id.Event]*event.PDU), rejected: make(map[id.Event]bool), byKey: make(map[event.Tuple][]id.Event),
		branches: []stateres.Set{{}},
	}
	for i := range 2 + rand.IntN(4) {
		w.users = append(w.users, id.User(fmt.Sprintf("@u%d:s%d", i, i%3)))
	}
	creator := w.users[0]
	create := Content{"room_version": version, "creator": creator}
	if rand.IntN(2) == 0 {
		create["additional_creators"] = w.users[1:2]
	}
	w.add(0, creator, "m.room.create", "", create, nil)
	w.add(0, creator, "m.room.member", string(creator), Content{"membership": "join"}, w.selected)
	for range events {
		w.step()
	}
	return w, nil
}

// Event implements [stateres.Source].
func (w *Wild) Event(e id.Event) (*event.PDU, error) {
	if ev := w.byID[e]; ev != nil {
		return ev, nil
	}
	return nil, stateres.ErrMissing
}

// Rejected implements [stateres.Source].
func (w *Wild) Rejected(e id.Event) bool { return w.rejected[e] }

func (w *Wild) user() id.User { return w.users[w.rand.IntN(len(w.users))] }

func (w *Wild) one(in int) bool { return w.rand.IntN(in) == 0 }

func (w *Wild) pick(of ...string) string { return of[w.rand.IntN(len(of))] }

// step adds an event to a branch, or makes or joins branches.
func (w *Wild) step() {
	b := w.rand.IntN(len(w.branches))
	switch roll := w.rand.IntN(12); {
	case roll == 0 && len(w.branches) < 6:
		w.branches = append(w.branches, maps.Clone(w.branches[b]))
		return
	case roll == 1 && len(w.past) > 0: // a fork from long ago
		w.branches[b] = maps.Clone(w.past[w.rand.IntN(len(w.past))])
	case roll == 2: // a careless merge
		other := w.branches[w.rand.IntN(len(w.branches))]
		for _, k := range sortedKeys(other) {
			if w.one(2) {
				w.branches[b][k] = other[k]
			}
		}
	}
	sender, typ, key, content := w.content()
	cite := w.selected
	switch w.rand.IntN(5) {
	case 0:
		cite = w.outdated
	case 1:
		cite = w.arbitrary
	}
	w.add(b, sender, typ, key, content, cite)
	if w.one(4) {
		w.past = append(w.past, maps.Clone(w.branches[b]))
	}
}

// content draws an event.
func (w *Wild) content() (sender id.User, typ, key string, content Content) {
	sender = w.user()
	if w.one(3) {
		sender = w.users[0]
	}
	target := w.user()
	switch w.rand.IntN(12) {
	case 0, 1:
		c := Content{"membership": "join"}
		if w.one(2) {
			c["join_authorised_via_users_server"] = w.user()
		}
		return sender, "m.room.member", string(sender), c
	case 2:
		return sender, "m.room.member", string(sender), Content{"membership": w.pick("leave", "knock", "join", "strange")}
	case 3:
		return sender, "m.room.member", string(target), w.invitation(target)
	case 4, 5:
		return sender, "m.room.member", string(target), Content{"membership": w.pick("leave", "ban", "invite", "join")}
	case 6, 7, 8:
		users := Content{}
		for range w.rand.IntN(3) {
			users[string(w.user())] = []int{0, 50, 100}[w.rand.IntN(3)]
		}
		if w.one(2) && !w.Rules.PrivilegedCreators {
			users[string(w.users[0])] = 100
		}
		return sender, "m.room.power_levels", w.key(), Content{"users": users, "invite": 50 * w.rand.IntN(2), "state_default": 50 * w.rand.IntN(2)}
	case 9:
		return sender, "m.room.join_rules", w.key(), Content{"join_rule": w.pick("public", "invite", "knock", "restricted", "knock_restricted")}
	case 10:
		public := signing.Encode(ServerKey("identity").Public())
		return sender, "m.room.third_party_invite", w.pick("token", "other"), Content{"public_key": public}
	}
	return sender, w.pick("m.room.topic", "m.room.aliases", "org.example.note"), w.pick("", "s0", string(sender)), Content{}
}

// key is seldom not the empty key that makes power levels and join rules what they are.
func (w *Wild) key() string {
	if w.one(12) {
		return "x"
	}
	return ""
}

// invitation is an invite, often one that an identity server signed.
func (w *Wild) invitation(target id.User) Content {
	c := Content{"membership": "invite"}
	if w.one(2) {
		return c
	}
	raw := fmt.Sprintf(`{"mxid":%q,"token":"token"}`, target)
	signed, err := signing.SignJSON([]byte(raw), "identity", ServerKey("identity"))
	if err != nil {
		panic(fmt.Sprintf("sign %s: %v", raw, err))
	}
	c["third_party_invite"] = Content{"signed": json.RawMessage(signed)}
	return c
}

// add builds an event upon a branch and makes it part of the branch, mostly only if it is allowed.
func (w *Wild) add(branch int, sender id.User, typ, key string, content Content, cite func(*event.PDU, stateres.Set) []id.Event) {
	raw, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Sprintf("content: %v", err))
	}
	n := len(w.Events)
	ev := &event.PDU{
		ID: id.Event(fmt.Sprintf("$%02d-%d:s0", w.rand.IntN(100), n)), RoomID: "!room:s0", Rules: w.Rules,
		Type: typ, StateKey: &key, Sender: sender, Content: raw,
		JSON:           []byte(`{"signatures":{"s0":{"ed25519:x":"AA"},"s1":{"ed25519:x":"AA"}}}`),
		Depth:          int64(1 + n/2 + w.rand.IntN(3)),
		OriginServerTS: int64(1000 + n/3 + w.rand.IntN(6)),
	}
	if n > 0 {
		ev.PrevEvents = []id.Event{w.Events[w.rand.IntN(n)].ID}
	}
	if w.Rules.RoomIDIsCreateHash {
		ev.RoomID = id.Room("!" + string(ev.ID[1:]))
		if n > 0 {
			ev.RoomID = w.Events[0].RoomID
		}
	}
	state := w.branches[branch]
	if cite != nil {
		ev.AuthEvents = cite(ev, state)
	}
	allowed := auth.Check(ev, lookup{&Room{byID: w.byID}, state}, auth.Options{}) == nil
	w.rejected[ev.ID] = !allowed && !w.one(3) || w.one(20)
	w.byID[ev.ID] = ev
	w.Events = append(w.Events, ev)
	w.byKey[ev.Tuple()] = append(w.byKey[ev.Tuple()], ev.ID)
	if allowed || w.one(6) {
		state[ev.Tuple()] = ev.ID
	}
}

// selected are the auth events that the specification selects from a state.
func (w *Wild) selected(ev *event.PDU, state stateres.Set) []id.Event {
	var cited []id.Event
	for _, k := range auth.NeededBy(ev) {
		if e, ok := state[k]; ok {
			cited = append(cited, e)
		}
	}
	return cited
}

// outdated are events of the keys that the specification selects, from any time; of some keys two, of some none.
func (w *Wild) outdated(ev *event.PDU, _ stateres.Set) []id.Event {
	var cited []id.Event
	for _, k := range auth.NeededBy(ev) {
		for range []int{1, 1, 1, 2, 0}[w.rand.IntN(5)] {
			if all := w.byKey[k]; len(all) > 0 {
				cited = append(cited, all[w.rand.IntN(len(all))])
			}
		}
	}
	return cited
}

// arbitrary are a few events, whichever; one may be named twice.
func (w *Wild) arbitrary(*event.PDU, stateres.Set) []id.Event {
	var cited []id.Event
	for range w.rand.IntN(5) {
		if e := w.Events[w.rand.IntN(len(w.Events))]; !w.Rules.RoomIDIsCreateHash || e.Type != "m.room.create" {
			cited = append(cited, e.ID)
		}
	}
	return cited
}

// States returns n states: those of branches, now or in the past, often with single keys that are missing or of another
// time.
func (w *Wild) States(n int) []stateres.Set {
	all := slices.Concat(w.branches, w.past)
	sets := make([]stateres.Set, n)
	for i := range sets {
		sets[i] = maps.Clone(all[w.rand.IntN(len(all))])
		for range []int{0, 0, 1, 3}[w.rand.IntN(4)] {
			ev := w.Events[w.rand.IntN(len(w.Events))]
			if w.one(3) {
				delete(sets[i], ev.Tuple())
			} else {
				sets[i][ev.Tuple()] = ev.ID
			}
		}
	}
	return sets
}
