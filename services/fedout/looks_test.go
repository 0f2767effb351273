package fedout

import (
	"log/slog"
	"maps"
	"slices"
	"testing"

	"hanse/pkg/destination"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
)

// From time to time all partitions are looked at, of which those are read that have something in any of the tables, or that know
// of a destination. All others cost one statement together.
func TestToLook(t *testing.T) {
	shards := pgtest.New(t)
	s := &Service{shards: shards, log: slog.New(slog.DiscardHandler)}
	f := &sender{s: s}
	parts := make([]*destPart, 8)
	for n := range parts {
		parts[n] = &destPart{Part: &follow.Part{N: uint32(n)}, f: f}
	}
	for part, statement := range []string{
		`INSERT INTO destination (part, server_name, failures) VALUES (0, 'a', 1)`,
		`INSERT INTO destination (part, server_name, failures) VALUES (1, 'a', 1)`,
		`INSERT INTO destination_behind (part, server_name, log_part, pos) VALUES (2, 'a', 1, 1)`,
		`INSERT INTO destination_room (part, server_name, log_part, room_nid) VALUES (3, 'a', 1, 1)`,
		`INSERT INTO fed_edu (part, server_name, origin, edu_type, content) VALUES (4, 'a', 'o', 'x', '')`,
		`INSERT INTO destination (part, server_name) VALUES (5, 'a')`,
	} {
		if _, err := shards.For(uint32(part)).Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	parts[6].failing = map[id.Server]destination.State{"a": {}} // its row is gone by now
	parts[7].dests = map[id.Server]*dest{"a": {}}
	// The first one is another worker's.
	toLook, err := f.toLook(t.Context(), parts[1:])
	if got, want := slices.Sorted(maps.Keys(toLook)), []uint32{1, 2, 3, 4, 6, 7}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
