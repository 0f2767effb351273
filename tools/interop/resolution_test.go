//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
)

// resolverScript resolves states with Synapse's own code. All events count as not persisted yet, so that nothing is asked of
// a database: the auth difference and the conflicted subgraph, too, are Synapse's.
const resolverScript = `
import asyncio, json, sys
import synapse.event_auth  # before synapse.state: they import each other
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

class Clock:
    async def sleep(self, duration):
        pass

class Store:
    def __init__(self, events):
        self.events = events
    async def get_events(self, ids, allow_rejected=False):
        return {i: self.events[i] for i in ids if i in self.events}
    async def get_auth_chain_difference(self, room_id, state_sets, conflicted, additional):
        # Nothing is persisted but what is before the first event: there is nothing.
        assert not any(state_sets), state_sets
        return StateDifference(auth_difference=set(), conflicted_subgraph=set())

async def resolve(q):
    version = KNOWN_ROOM_VERSIONS[q["Version"]]
    events = {}
    for i, raw in q["Events"]:
        event = make_event_from_dict(raw, version)
        assert event.event_id == i, (event.event_id, i)
        events[i] = event
    store = Store(events)
    results = []
    for sets in q["Sets"]:
        states = [{(t, k): e for t, k, e in s} for s in sets]
        if q["Version"] == "1":
            got = await v1.resolve_events_with_store(q["Room"], version, states, dict(events), store.get_events)
        else:
            got = await v2.resolve_events_with_store(Clock(), q["Room"], version, states, dict(events), store)
        results.append([[t, k, e] for (t, k), e in got.items()])
    return results

for line in sys.stdin:
    print(json.dumps(asyncio.run(resolve(json.loads(line)))), flush=True)
`

// triple is an entry of a state: type, state key and event.
type triple [3]string

func triples(s stateres.Set) []triple {
	out := make([]triple, 0, len(s))
	for k, e := range s {
		out = append(out, triple{k.Type, k.StateKey, string(e)})
	}
	slices.SortFunc(out, func(a, b triple) int { return slices.Compare(a[:], b[:]) })
	return out
}

// Room versions, "State resolution": what stateres, the oracle of the server's resolution, makes of forks is what Synapse's
// makes of them, in random rooms of servers that keep to the rules. INTEROP_ROOMS is how many of each version.
func TestResolution(t *testing.T) {
	rooms, first := number(t, "INTEROP_ROOMS", 25), number(t, "INTEROP_SEED", 1)
	resolver, err := startPython(other.python, resolverScript)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resolver.stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, version := range roomversion.Supported() {
		t.Run("version "+version, func(t *testing.T) {
			conflicts, failed := 0, 0
			for seed := first; seed < first+rooms && failed < 3; seed++ {
				rng := rand.New(rand.NewPCG(uint64(seed), 2))
				g, err := roomgen.Random(rng, roomgen.Config{Version: version, Events: 30})
				if err != nil {
					t.Fatal(err)
				}
				sets := [][]stateres.Set{g.States(), g.Branches(2), g.Branches(2 + rng.IntN(3)), g.MixedStates(2)}
				n, err := compareResolutions(resolver, g.Room, sets)
				if err != nil {
					failed++
					t.Errorf("seed %d: %v", seed, err)
				}
				conflicts += n
			}
			if conflicts < 3*rooms/2 {
				t.Errorf("%d resolutions in %d rooms", conflicts, rooms)
			}
		})
	}
	t.Run("cases", func(t *testing.T) {
		for _, c := range roomgen.Cases() {
			if strings.Contains(c.Name, "rejected") { // Synapse lets no rejected event into a state again
				continue
			}
			if _, err := compareResolutions(resolver, c.Room, [][]stateres.Set{c.Sets}); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	})
}

// compareResolutions resolves states of a room with both. It counts those in which something is in conflict.
func compareResolutions(resolver *python, r *roomgen.Room, sets [][]stateres.Set) (conflicts int, err error) {
	question := struct {
		Version string
		Room    id.Room
		Events  [][2]any
		Sets    [][][]triple
	}{Version: r.Rules.Version, Room: r.ID}
	for _, ev := range r.Events {
		question.Events = append(question.Events, [2]any{ev.ID, json.RawMessage(ev.JSON)})
	}
	for _, states := range sets {
		var list [][]triple
		for _, s := range states {
			list = append(list, triples(s))
		}
		question.Sets = append(question.Sets, list)
		for _, s := range states[1:] {
			if !maps.Equal(states[0], s) {
				conflicts++
				break
			}
		}
	}
	var answers [][]triple
	if err := resolver.ask(question, &answers); err != nil {
		return conflicts, err
	}
	for i, states := range sets {
		ours, err := stateres.Resolve(r.Rules, states, r)
		if err != nil {
			return conflicts, err
		}
		theirs := make(map[string]string)
		for _, e := range answers[i] {
			theirs[e[0]+"|"+e[1]] = e[2]
		}
		mine := make(map[string]string)
		for k, e := range ours {
			mine[k.Type+"|"+k.StateKey] = string(e)
		}
		if err := differ(server{name: "hanse"}, server{name: "synapse"}, mine, theirs); err != nil {
			return conflicts, fmt.Errorf("states %d: %w", i, err)
		}
	}
	return conflicts, nil
}
