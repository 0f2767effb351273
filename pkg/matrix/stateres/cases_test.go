package stateres_test

import (
	"testing"

	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
)

// The examples of the room version pages and the problems of MSC4297 come out as they are written.
func TestCases(t *testing.T) {
	for _, c := range roomgen.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			got, err := stateres.Resolve(c.Rules, c.Sets, c)
			if err != nil {
				t.Fatal(err)
			}
			if got[c.Key] != c.Want {
				t.Errorf("%v: %q, want %q", c.Key, got[c.Key], c.Want)
			}
		})
	}
}
