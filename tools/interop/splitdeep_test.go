//go:build interop

package interop

import (
	"fmt"
	"testing"
)

// More is said in a split than one answer of /get_missing_events has, on one side or both, with changes of state in between: it
// comes by further answers, by /state_ids and by /backfill (server-server API, "Backfilling and retrieving missing events").
func TestDeepSplits(t *testing.T) {
	const deep, shallow = 60, 3
	h, s := sides()
	casts := []cast{newCast(t, h, s), newCast(t, s, h)}
	var forks []*fork
	lengths := make(map[*fork][2]int)
	for i, length := range [][2]int{{deep, shallow}, {shallow, deep}, {deep, deep}} {
		c, version := casts[i%2], []string{"11", "12", "2"}[i]
		f := &fork{name: fmt.Sprintf("%d and %d messages, version %s, made on %s", length[0], length[1], version, c.boss.server.name),
			version: version, cast: c, gaps: true}
		forks = append(forks, f)
		lengths[f] = length
	}
	openAll(t, forks, func(*fork) {})
	split(t, forks, func(f *fork) {
		for side, p := range []*person{f.aide, f.friend} {
			for i := range lengths[f][side] {
				if i%7 == 5 {
					f.topic(p, fmt.Sprintf("topic %d of side %d", i, side))
				}
				f.say(p, fmt.Sprintf("message %d of side %d", i, side))
			}
		}
		f.member(f.boss, f.rival, "leave")
		f.power(f.guest, map[string]any{f.clerk.id: 10})
	}, func(*fork) {})
	for _, f := range forks {
		t.Run(f.name, func(t *testing.T) { f.check(t) })
	}
}
