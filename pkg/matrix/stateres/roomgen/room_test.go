package roomgen_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres/roomgen"
)

// Random rooms must contain what they are for, in every room version.
func TestRandomCoversTheRules(t *testing.T) {
	for _, v := range roomversion.Supported() {
		t.Run(v, func(t *testing.T) {
			seen := map[string]int{}
			for seed := range uint64(8) {
				g, err := roomgen.Random(rand.New(rand.NewPCG(seed, 1)), roomgen.Config{Version: v, Events: 60})
				if err != nil {
					t.Fatal(err)
				}
				for _, ev := range g.Events {
					kind := ev.Type
					if ev.Type == "m.room.member" {
						kind = ev.Membership()
						if string(ev.Sender) != *ev.StateKey {
							kind += " by other"
						}
					}
					seen[kind]++
					if len(ev.PrevEvents) > 1 {
						seen["merge"]++
					}
				}
			}
			wanted := []string{"join", "leave", "leave by other", "ban by other", "invite by other", "merge", "m.room.power_levels", "m.room.join_rules"}
			if g, _ := roomversion.Get(v); g.Knocking {
				wanted = append(wanted, "knock")
			}
			for _, w := range wanted {
				if seen[w] == 0 {
					t.Errorf("no %s among %v", w, seen)
				}
			}
		})
	}
}

// The same seed makes the same room.
func TestRandomIsReproducible(t *testing.T) {
	last := func() string {
		g, err := roomgen.Random(rand.New(rand.NewPCG(7, 7)), roomgen.Config{Version: "11"})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(g.Extremities())
	}
	if a, b := last(), last(); a != b {
		t.Errorf("%s and %s", a, b)
	}
}
