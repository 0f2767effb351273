package authgraph

import (
	"errors"
	"fmt"
	"slices"

	"hanse/pkg/state"
)

// Index names an event of one graph: its place in the order of numeric ids.
type Index uint32

// KeyIndex names a (type, state key) pair of one graph.
type KeyIndex uint32

// None is no event.
const None = ^Index(0)

// Errors of Add.
var (
	// ErrOrder says that an event is not newer than all that the graph has.
	ErrOrder = errors.New("event is older than others of the auth graph")
	// ErrUnknown says that an event cites one that the graph does not have.
	ErrUnknown = errors.New("auth event is not in the auth graph")
)

var powerLevels = state.Key{Type: "m.room.power_levels"}

// Node is a state event as the graph takes it in.
type Node struct {
	NID  int64
	Key  state.Key
	Auth []int64 // numeric ids of the auth events
	// Rejected events may cite what is no state event: it is left out, as no walk needs it.
	Rejected bool
}

// Graph is the auth graph of one room. Add must not run beside anything else; all other methods may run beside one
// another.
type Graph struct {
	nids []int64
	key  []KeyIndex
	off  []uint32 // the citations of i are cites[off[i]:off[i+1]]

	cites []Index  // the event that is cited
	by    []Index  // the event that cites it
	older []uint32 // the citation before this one of the same event, plus one
	last  []uint32 // the newest citation of i, plus one

	keyTable

	levels map[Index]level
}

// level is the place of a power levels event in the forest of those.
type level struct {
	depth  int32 // 1 for one that cites no other
	parent Index
	jump   Index // an ancestor farther up
}

// New returns an empty graph.
func New() *Graph {
	return &Graph{off: []uint32{0}, keyTable: newKeyTable(), levels: make(map[Index]level)}
}

// Add puts a state event into the graph, after all that it cites. An event that the graph has already is left as it is.
func (g *Graph) Add(n Node) error {
	if len(g.nids) > 0 && n.NID <= g.nids[len(g.nids)-1] {
		if g.Find(n.NID) != None {
			return nil
		}
		return fmt.Errorf("%w: %d after %d", ErrOrder, n.NID, g.nids[len(g.nids)-1])
	}
	from := len(g.cites)
	for _, nid := range n.Auth {
		switch a := g.Find(nid); {
		case a != None:
			g.cite(from, a)
		case !n.Rejected:
			g.cites = g.cites[:from]
			return fmt.Errorf("%w: %d, cited by %d", ErrUnknown, nid, n.NID)
		}
	}
	g.close(n.NID, g.intern(n.Key))
	return nil
}

// cite adds a citation, once, to those of the event that is being added, which begin at from.
func (g *Graph) cite(from int, a Index) bool {
	if slices.Contains(g.cites[from:], a) {
		return false
	}
	g.cites = append(g.cites, a)
	return true
}

// close adds the event that cites what was added to cites since the last one.
func (g *Graph) close(nid int64, key KeyIndex) {
	i := Index(len(g.nids))
	from := g.off[i]
	for e, a := range g.cites[from:] {
		g.by = append(g.by, i)
		g.older = append(g.older, g.last[a])
		g.last[a] = from + uint32(e) + 1
	}
	g.nids = append(g.nids, nid)
	g.key = append(g.key, key)
	g.off = append(g.off, uint32(len(g.cites)))
	g.last = append(g.last, 0)
	if g.keys[key] == powerLevels {
		g.addLevel(i)
	}
}

// grow makes room for n more events.
func (g *Graph) grow(n int) {
	g.nids, g.key = slices.Grow(g.nids, n), slices.Grow(g.key, n)
	g.off, g.last = slices.Grow(g.off, n), slices.Grow(g.last, n)
}

// Len returns the number of events.
func (g *Graph) Len() int { return len(g.nids) }

// Last returns the numeric id of the newest event, 0 if there is none.
func (g *Graph) Last() int64 {
	if len(g.nids) == 0 {
		return 0
	}
	return g.nids[len(g.nids)-1]
}

// Find returns the event with a numeric id, or None.
func (g *Graph) Find(nid int64) Index {
	if i, ok := slices.BinarySearch(g.nids, nid); ok {
		return Index(i)
	}
	return None
}

// NID returns the numeric id of an event.
func (g *Graph) NID(i Index) int64 { return g.nids[i] }

// Key returns the type and state key of an event.
func (g *Graph) Key(i Index) state.Key { return g.keys[g.key[i]] }

// KeyIndex returns the same as a number.
func (g *Graph) KeyIndex(i Index) KeyIndex { return g.key[i] }

// Keys returns the number of different types and state keys.
func (g *Graph) Keys() int { return len(g.keys) }

// KeyAt returns a type and state key by its number.
func (g *Graph) KeyAt(k KeyIndex) state.Key { return g.keys[k] }

// FindKey returns the number of a type and state key, if an event has them.
func (g *Graph) FindKey(k state.Key) (KeyIndex, bool) {
	slot, ok := g.find(k)
	if !ok {
		return 0, false
	}
	return KeyIndex(g.slots[slot] - 1), true
}

// Auth returns the auth events of an event, each once. The slice must not be changed.
func (g *Graph) Auth(i Index) []Index { return g.cites[g.off[i]:g.off[i+1]] }

// AuthAt returns the auth event of i with a type and state key; the first of several; None if there is none.
func (g *Graph) AuthAt(i Index, k KeyIndex) Index {
	for _, a := range g.Auth(i) {
		if g.key[a] == k {
			return a
		}
	}
	return None
}

// CitedBy iterates over the events that cite an event, newest first.
func (g *Graph) CitedBy(i Index) func(yield func(Index) bool) {
	return func(yield func(Index) bool) {
		for e := g.last[i]; e != 0; e = g.older[e-1] {
			if !yield(g.by[e-1]) {
				return
			}
		}
	}
}

// Bytes estimates the memory that the graph holds.
func (g *Graph) Bytes() int64 {
	return int64(cap(g.nids)*8+cap(g.key)*4+cap(g.off)*4+cap(g.cites)*4+cap(g.by)*4+cap(g.older)*4+cap(g.last)*4+
		g.bytes()) + int64(len(g.levels))*32
}
