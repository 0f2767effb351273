package resolve_test

import (
	"testing"

	"hanse/pkg/matrix/stateres/roomgen"
)

// The examples of the room version pages and the problems of MSC4297 come out as they are written, and all other keys as
// the oracle has them.
func TestCases(t *testing.T) {
	for _, c := range roomgen.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			r, err := newGraphed(c.Rules, c.Events, c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.compare(c.Sets); err != nil {
				t.Error(err)
			}
			got, _, err := r.resolve(c.Sets)
			if err != nil {
				t.Fatal(err)
			}
			if got[c.Key] != c.Want {
				t.Errorf("%v: %q, want %q", c.Key, got[c.Key], c.Want)
			}
		})
	}
}
