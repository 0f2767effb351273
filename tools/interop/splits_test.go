//go:build interop

package interop

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Room versions, "State resolution"; server-server API, "Soft failure". Each scenario runs in one of its versions, made on one
// of the servers; with INTEROP_SPLITS=all in all of them, made on either, and with a part of names those of these names.
func TestSplits(t *testing.T) {
	all, chosen := slices.Concat(scenarios, moreScenarios), os.Getenv("INTEROP_SPLITS")
	h, s := sides()
	casts := []cast{newCast(t, h, s), newCast(t, s, h)}
	var forks []*fork
	of := make(map[*fork]*scenario)
	add := func(sc *scenario, version string, c cast) {
		f := &fork{name: fmt.Sprintf("%s, version %s, made on %s", sc.name, version, c.boss.server.name), version: version, cast: c, gaps: sc.gaps,
			creators: sc.creators}
		forks = append(forks, f)
		of[f] = sc
	}
	for i := range all {
		sc := &all[i]
		if chosen == "" {
			if !sc.asked {
				add(sc, sc.oneVersion(i), casts[i/2%2])
			}
			continue
		}
		if chosen != "all" && !strings.Contains(sc.name, chosen) {
			continue
		}
		for _, version := range sc.in() {
			add(sc, version, casts[0])
			add(sc, version, casts[1])
		}
	}
	perform := func(part func(sc *scenario) func(f *fork)) func(f *fork) {
		return func(f *fork) {
			if do := part(of[f]); do != nil {
				do(f)
			}
		}
	}
	openAll(t, forks, perform(func(sc *scenario) func(f *fork) { return sc.before }))
	split(t, forks, perform(func(sc *scenario) func(f *fork) { return sc.apart }), perform(func(sc *scenario) func(f *fork) { return sc.after }))
	each(forks, func(f *fork) {
		if want := of[f].want; want != nil {
			f.note("in the end", want(f))
		}
	})
	for _, f := range forks {
		t.Run(f.name, func(t *testing.T) { f.check(t) })
	}
}

// in returns the room versions of a scenario.
func (sc *scenario) in() []string {
	if sc.versions == nil {
		return splitVersions
	}
	return sc.versions
}

// oneVersion is 12 for every second scenario; the others have the other versions by turns, as far as they can.
func (sc *scenario) oneVersion(i int) string {
	others := splitVersions[:len(splitVersions)-1]
	if version := others[i/2%len(others)]; i%2 == 1 && slices.Contains(sc.in(), version) {
		return version
	}
	if i%2 == 1 {
		return sc.in()[0]
	}
	return "12"
}
