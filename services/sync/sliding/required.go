package sliding

import (
	"hash/fnv"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

const memberType = "m.room.member"

// Required says which entries of a room's state are asked for. With Lazy those members are who matter for the timeline, and
// such as are named; the rest of the state is as Include and Exclude say.
type Required struct {
	Include, Exclude []element
	Lazy             bool

	hashes []uint32 // of the entries; sorted
	wide   bool     // an entry stands for many types or keys
}

type element struct {
	Type, Key       string
	AnyType, AnyKey bool
	Me              bool // the state key is who asks
}

// elementJSON is an element of /v4/sync: what is left out matches all.
type elementJSON struct {
	Type *string `json:"type"`
	Key  *string `json:"state_key"`
}

func (e elementJSON) element() element {
	out := element{AnyType: e.Type == nil, AnyKey: e.Key == nil}
	if e.Type != nil {
		out.Type = *e.Type
	}
	if e.Key != nil {
		out.Key = *e.Key
	}
	return out
}

func (e *element) matches(k state.Key, me id.User) bool {
	if !e.AnyType && e.Type != k.Type {
		return false
	}
	switch {
	case e.AnyKey:
		return true
	case e.Me:
		return k.StateKey == string(me)
	}
	return k.StateKey == e.Key
}

// Matches says whether an entry of the state is asked for, whatever the timeline is.
func (r *Required) Matches(k state.Key, me id.User) bool {
	lazy := r.Lazy && k.Type == memberType
	included := slices.ContainsFunc(r.Include, func(e element) bool { return e.matches(k, me) && !(lazy && (e.AnyKey || e.AnyType)) })
	return included && !slices.ContainsFunc(r.Exclude, func(e element) bool { return e.matches(k, me) })
}

// Members says whether all members are asked for.
func (r *Required) Members() bool {
	return !r.Lazy && slices.ContainsFunc(r.Include, func(e element) bool { return e.AnyKey && (e.AnyType || e.Type == memberType) })
}

// Of returns the numbers of those entries of a room's state that are asked for.
func (r *Required) Of(m state.Map, me id.User) []int64 {
	var nids []int64
	if r.wide {
		all := m.All()
		if r.Lazy {
			all = m.Except(memberType)
		}
		for k, nid := range all {
			if r.Matches(k, me) {
				nids = append(nids, nid)
			}
		}
	}
	for i := range r.Include {
		e := &r.Include[i]
		switch {
		case e.AnyType:
		case !e.AnyKey:
			k := state.Key{Type: e.Type, StateKey: e.Key}
			if e.Me {
				k.StateKey = string(me)
			}
			if nid, ok := m.Get(k); ok && r.Matches(k, me) {
				nids = append(nids, nid)
			}
		default:
			for k, nid := range m.Type(e.Type) {
				if r.Matches(k, me) {
					nids = append(nids, nid)
				}
			}
		}
	}
	slices.Sort(nids)
	return slices.Compact(nids)
}

// index makes what is derived from the entries.
func (r *Required) index() {
	add := func(kind byte, e element) {
		h := fnv.New32a()
		flags := byte(0)
		for i, set := range []bool{e.AnyType, e.AnyKey, e.Me} {
			if set {
				flags |= 1 << i
			}
		}
		_, _ = h.Write([]byte{kind, flags})
		_, _ = h.Write([]byte(e.Type + "\x00" + e.Key))
		r.hashes = append(r.hashes, h.Sum32())
	}
	for _, e := range r.Include {
		r.wide = r.wide || e.AnyType
		add('i', e)
	}
	for _, e := range r.Exclude {
		add('e', e)
	}
	if r.Lazy {
		add('l', element{})
	}
	r.hashes = byHash(r.hashes)
	if len(r.Exclude) > 0 { // any change of what is left out may ask for more
		r.hashes = []uint32{sumOf(r.hashes)}
	}
}

// Wants is what several rules ask of one room together.
type Wants struct {
	Limit int
	rules []*Required
	lists []string
	sub   bool
}

// Add adds what a list, or a subscription if it has no name, asks for.
func (w *Wants) Add(want *Want, list string) {
	w.Limit = max(w.Limit, want.Limit)
	if !slices.Contains(w.rules, &want.State) {
		w.rules = append(w.rules, &want.State)
	}
	if list == "" {
		w.sub = true
	} else {
		w.lists = append(w.lists, list)
	}
}

// Any says whether any rule asks for the room.
func (w *Wants) Any() bool { return len(w.rules) > 0 }

// Lists are the names of the lists that ask for the room.
func (w *Wants) Lists() []string { return w.lists }

// In says whether an extension counts for the room.
func (w *Wants) In(s *Scope, room id.Room) bool { return s.Has(w.lists, w.sub, room) }

// Matches says whether an entry of the state is asked for.
func (w *Wants) Matches(k state.Key, me id.User) bool {
	return slices.ContainsFunc(w.rules, func(r *Required) bool { return r.Matches(k, me) })
}

// Of returns the numbers of those entries of a room's state that are asked for.
func (w *Wants) Of(m state.Map, me id.User) []int64 {
	if len(w.rules) == 1 {
		return w.rules[0].Of(m, me)
	}
	var nids []int64
	for _, r := range w.rules {
		nids = append(nids, r.Of(m, me)...)
	}
	slices.Sort(nids)
	return slices.Compact(nids)
}

// Members says whether all members are asked for.
func (w *Wants) Members() bool {
	return slices.ContainsFunc(w.rules, func(r *Required) bool { return r.Members() })
}

// Lazy says whether members are told as the timeline needs them.
func (w *Wants) Lazy() bool {
	return slices.ContainsFunc(w.rules, func(r *Required) bool { return r.Lazy }) && !w.Members()
}

// Config is what a connection remembers of the wants.
func (w *Wants) Config() Config {
	c := Config{Limit: w.Limit}
	if len(w.rules) == 1 {
		c.State = w.rules[0].hashes
		return c
	}
	for _, r := range w.rules {
		c.State = append(c.State, r.hashes...)
	}
	c.State = byHash(c.State)
	return c
}
