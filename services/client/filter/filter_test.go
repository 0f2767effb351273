package filter

import (
	"testing"
)

// Client-server API, "Filtering": * stands for any characters.
func TestMatchesType(t *testing.T) {
	for _, tc := range []struct {
		pattern, typ string
		want         bool
	}{
		{"m.room.message", "m.room.message", true}, {"m.room", "m.room.message", false}, {"m.*", "m.room.message", true},
		{"*", "", true}, {"*message", "m.room.message", true}, {"m.*.m*e", "m.room.message", true}, {"m.*x*", "m.room.message", false},
		{"ab*ba", "aba", false}, {"a**b", "ab", true}, {"*a*b*", "ba", false},
	} {
		if got := matchesType(tc.pattern, tc.typ); got != tc.want {
			t.Errorf("%q, %q: %v", tc.pattern, tc.typ, got)
		}
	}
}
