package eventsql

import (
	"testing"

	"hanse/pkg/pg/pgtest"
)

// Each statement must be one of the schema that the migrations make.
func TestStatements(t *testing.T) {
	conn, err := pgtest.New(t).For(0).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, sql := range map[string]string{
		"ByNID": ByNID, "ByID": ByID, "OneByID": OneByID, "ByPartNID": ByPartNID, "OneInParts": OneInParts, "IDs": IDs, "Unplaced": Unplaced,
		"RawByNID": RawByNID, "RawRange": RawRange, "Nodes": Nodes, "Entries": Entries, "EntriesAfter": EntriesAfter, "Listed": Listed,
		"Caused": Caused, "Insert": Insert, "Place": Place, "Judge": Judge, "Redact": Redact, "Restore": Restore,
		"DeleteRooms": DeleteRooms, "DeleteAuthMissing": DeleteAuthMissing, "Accepted": "SELECT FROM event e WHERE " + Accepted,
	} {
		if _, err := conn.Conn().Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var r Rows
	for name, args := range map[string][]any{"Insert": r.Insert(), "Place": r.Place()} {
		d, err := conn.Conn().Prepare(t.Context(), name, map[string]string{"Insert": Insert, "Place": Place}[name])
		if err != nil {
			t.Fatal(err)
		}
		if len(d.ParamOIDs) != len(args) {
			t.Errorf("%s takes %d arguments, not %d", name, len(d.ParamOIDs), len(args))
		}
	}
}
