package stateres_test

import (
	"errors"
	"fmt"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
)

type events map[id.Event]*event.PDU

func (e events) Event(i id.Event) (*event.PDU, error) { return e[i], nil }
func (e events) Rejected(id.Event) bool               { return false }

func (e events) levels(rules *roomversion.Rules, i id.Event, cites ...id.Event) {
	key := ""
	e[i] = &event.PDU{
		ID: i, RoomID: "!r:s", Rules: rules, Type: "m.room.power_levels", StateKey: &key,
		Sender: "@a:s", Content: []byte(`{}`), JSON: []byte(`{}`), AuthEvents: cites,
	}
}

// Where event IDs are chosen, auth events can form a cycle. That ends in an
// error, not in a loop.
func TestCycle(t *testing.T) {
	rules, _ := roomversion.Get("2")
	src := events{}
	src.levels(rules, "$a:s", "$b:s")
	src.levels(rules, "$b:s", "$a:s")
	key := event.Tuple{Type: "m.room.power_levels"}
	_, err := stateres.Resolve(rules, []stateres.Set{{key: "$a:s"}, {key: "$b:s"}}, src)
	var cycle *stateres.CycleError
	if !errors.As(err, &cycle) || len(cycle.IDs) != 2 {
		t.Errorf("%v", err)
	}
}

// A chain of auth events as long as an attacker can afford is walked, not
// recursed into.
func TestDeepChain(t *testing.T) {
	const depth = 50_000
	for _, version := range []string{"2", "12"} {
		rules, _ := roomversion.Get(version)
		src := events{}
		name := func(i int) id.Event { return id.Event(fmt.Sprintf("$%06d:s", i)) }
		src.levels(rules, name(0))
		for i := range depth {
			src.levels(rules, name(i+1), name(i))
		}
		create := event.PDU{ID: "$r:s", RoomID: "!r:s", Rules: rules, Type: "m.room.create", Sender: "@a:s", StateKey: new(string), Content: []byte(`{}`)}
		src[create.ID] = &create
		key := event.Tuple{Type: "m.room.power_levels"}
		if _, err := stateres.Resolve(rules, []stateres.Set{{key: name(0)}, {key: name(depth)}}, src); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
	}
}
