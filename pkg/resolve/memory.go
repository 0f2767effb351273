package resolve

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
)

// memory is what resolutions have learned of the events of a graph, and what the next one need not read or work out again:
// what an event is ordered by, what it is as the answer of a look-up, and how it was judged upon what answers. All of that
// follows from events that never change; verdicts do, and are forgotten then. docs/state.md, "What is remembered", has why
// a check need not be repeated.
type memory struct {
	slots table[uint32] // the place of an event's fact, plus one
	facts []fact

	kinds    map[kind]class
	standIns []*event.PDU // by class: an event of it

	traces     []trace // the first is none
	byTrace    map[string]uint32
	traceBytes int

	create authgraph.Index           // since version 12: what is known to be the create event
	powers map[authgraph.Index]int64 // of the sender, by the event's own auth events

	verdicts uint32 // how often they were forgotten

	// Of the resolution that is under way.
	cells table[cell]
	slot  table[uint32]
	masks []uint64
}

// fact is what is known of an event.
type fact struct {
	ts       int64
	name     uint64 // the begin of the event id: see orderOf
	class    class
	checks   [maxChecks]uint32 // traces of its last checks, the newest first
	verdicts uint32            // when rejected was known
	power    bool
	rejected bool
}

// maxChecks is how many checks of an event are remembered: it may come to stand upon one state or the other by turns.
const maxChecks = 3

// class is what an event is as the answer of a look-up: events of one class are interchangeable there. 0 is no event.
type class uint32

// wholeEvent marks the class of one event, which is its number otherwise.
const wholeEvent class = 1 << 31

// kind names a class by type and aspect: see auth.Aspect.
type kind struct{ typ, aspect string }

// question is a look-up of a check, with the class of the event that it found.
type question struct {
	key   authgraph.KeyIndex
	class class
}

// ownKey stands for the key of the event that is checked, so that the checks of many events are the same trace.
const ownKey = ^authgraph.KeyIndex(0)

// trace is a check: what it looked up, in this order, and the outcome.
type trace struct {
	questions []question
	allowed   bool
}

func newMemory() *memory {
	return &memory{
		kinds: make(map[kind]class), standIns: make([]*event.PDU, 1), traces: make([]trace, 1),
		byTrace: make(map[string]uint32), create: authgraph.None, powers: make(map[authgraph.Index]int64),
	}
}

// begin makes room for the events of a graph, and for a resolution.
func (m *memory) begin(g *authgraph.Graph) {
	m.slots.grow(g.Len())
	m.slot.grow(g.Len())
	m.slot.clear()
	m.cells.grow(g.Keys())
	m.cells.clear()
	m.masks = m.masks[:0]
}

// fact returns what is known of an event, nil if nothing is. It is valid until another one is learned.
func (m *memory) fact(i authgraph.Index) *fact {
	slot := m.slots.get(uint32(i))
	if slot == 0 {
		return nil
	}
	return &m.facts[slot-1]
}

// learn notes an event that was read.
func (m *memory) learn(i authgraph.Index, ev Event) {
	f := m.fact(i)
	if f == nil {
		m.facts = append(m.facts, fact{ts: ev.OriginServerTS, name: beginOf(ev.ID), class: m.classOf(i, ev.PDU), power: IsPower(ev.PDU)})
		*m.slots.at(uint32(i)) = uint32(len(m.facts))
		f = &m.facts[len(m.facts)-1]
	}
	f.rejected, f.verdicts = ev.Rejected, m.verdicts
}

func (m *memory) classOf(i authgraph.Index, ev *event.PDU) class {
	aspect, ok := auth.Aspect(ev)
	if !ok {
		return wholeEvent | class(i)
	}
	k := kind{ev.Type, aspect}
	c, ok := m.kinds[k]
	if !ok {
		c = class(len(m.standIns))
		m.kinds[k] = c
		m.standIns = append(m.standIns, ev)
	}
	return c
}

// standIn returns an event of a class, nil if that has one event only.
func (m *memory) standIn(c class) *event.PDU {
	if c&wholeEvent != 0 {
		return nil
	}
	return m.standIns[c]
}

// remember notes a check of an event.
func (m *memory) remember(i authgraph.Index, own authgraph.KeyIndex, questions []question, allowed bool) {
	key := make([]byte, 0, 8*len(questions)+1)
	for n := range questions {
		if questions[n].key == own {
			questions[n].key = ownKey
		}
		key = binary.LittleEndian.AppendUint32(key, uint32(questions[n].key))
		key = binary.LittleEndian.AppendUint32(key, uint32(questions[n].class))
	}
	if allowed {
		key = append(key, 1)
	}
	t, ok := m.byTrace[string(key)]
	if !ok {
		t = uint32(len(m.traces))
		m.byTrace[string(key)] = t
		m.traces = append(m.traces, trace{slices.Clone(questions), allowed})
		m.traceBytes += 2 * len(key)
	}
	if f := m.fact(i); f != nil {
		copy(f.checks[1:], f.checks[:])
		f.checks[0] = t
	}
}

// bytes estimates what the memory holds.
func (m *memory) bytes() int64 {
	return m.slots.bytes() + m.cells.bytes() + m.slot.bytes() + int64(cap(m.masks))*8 +
		int64(cap(m.facts))*int64(unsafe.Sizeof(fact{})) +
		int64(cap(m.traces))*int64(unsafe.Sizeof(trace{})) + int64(m.traceBytes) + int64(len(m.traces))*40 +
		int64(len(m.powers))*24 + int64(len(m.standIns))*2048
}
