//go:build interop

package interop

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/gjson"

	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
)

// verdict is what a server made of an event.
type verdict string

const (
	absent     verdict = "absent" // not there, or stored without a place in the room
	accepted   verdict = "accepted"
	softFailed verdict = "soft-failed"
	rejected   verdict = "rejected"
)

// verdictsOn returns what a server made of events; absent ones are not in the map.
func verdictsOn(ctx context.Context, s server, events []string) (map[string]verdict, error) {
	if s.name == "hanse" {
		return hanseVerdicts(ctx, events)
	}
	return synapseVerdicts(events)
}

// shards are the databases of the cluster; opened once.
var shards = sync.OnceValues(func() (*pg.Shards, error) {
	cfg := pg.Defaults()
	cfg.Shards, cfg.MaxConns, cfg.Migrate = hanse.Shards(), 4, false
	return pg.Open(context.Background(), cfg)
})

func hanseVerdicts(ctx context.Context, events []string) (map[string]verdict, error) {
	db, err := shards()
	if err != nil {
		return nil, err
	}
	out := make(map[string]verdict, len(events))
	for _, pool := range db.All() {
		rows, err := pool.Query(ctx, `SELECT event_id, flags FROM event WHERE event_id = ANY($1)`, events)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var eventID string
			var flags int
			if err := rows.Scan(&eventID, &flags); err != nil {
				return nil, err
			}
			switch {
			case flags&roomdb.Rejected != 0:
				out[eventID] = rejected
			case flags&roomdb.Outlier != 0:
			case flags&roomdb.SoftFailed != 0:
				out[eventID] = softFailed
			default:
				out[eventID] = accepted
			}
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func synapseVerdicts(events []string) (map[string]verdict, error) {
	list, err := json.Marshal(events)
	if err != nil {
		return nil, err
	}
	var rows []struct {
		EventID  string
		Outlier  bool
		Rejected *string
		Internal string
	}
	err = other.query(`SELECT json_group_array(json_object('EventID', event_id, 'Outlier', json(iif(outlier, 'true', 'false')),
		'Rejected', rejection_reason, 'Internal', internal_metadata))
		FROM events JOIN event_json USING (event_id) WHERE event_id IN (SELECT value FROM json_each(?))`, &rows, string(list))
	if err != nil {
		return nil, err
	}
	out := make(map[string]verdict, len(rows))
	for _, r := range rows {
		var internal struct {
			SoftFailed bool `json:"soft_failed"`
		}
		if err := json.Unmarshal([]byte(r.Internal), &internal); err != nil {
			return nil, err
		}
		switch {
		case r.Rejected != nil:
			out[r.EventID] = rejected
		case r.Outlier:
		case internal.SoftFailed:
			out[r.EventID] = softFailed
		default:
			out[r.EventID] = accepted
		}
	}
	return out, nil
}

// dump describes the room's graph with the verdicts of both, for a test that failed.
func (f *fork) dump(ctx context.Context) string {
	db, err := shards()
	if err != nil {
		return err.Error()
	}
	texts := make(map[string]string)
	const known = `SELECT event_id, convert_from(json, 'UTF8') FROM event JOIN room USING (part, room_nid) WHERE room_id = $1`
	for _, pool := range db.All() {
		rows, err := pool.Query(ctx, known, f.room)
		if err != nil {
			return err.Error()
		}
		for rows.Next() {
			var eventID, text string
			if err := rows.Scan(&eventID, &text); err != nil {
				return err.Error()
			}
			texts[eventID] = text
		}
		if err := rows.Err(); err != nil {
			return err.Error()
		}
	}
	var more [][2]string
	if err := other.query(`SELECT json_group_array(json_array(event_id, json)) FROM event_json WHERE room_id = ?`, &more, f.room); err != nil {
		return err.Error()
	}
	for _, m := range more {
		texts[m[0]] = m[1]
	}
	ids := slices.Collect(maps.Keys(texts))
	depth := func(e string) int64 { return gjson.Get(texts[e], "depth").Int() }
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(depth(a), depth(b)), cmp.Compare(a, b)) })
	onHanse, err := hanseVerdicts(ctx, ids)
	if err != nil {
		return err.Error()
	}
	onSynapse, err := synapseVerdicts(ids)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	short := func(e string) string { return e[:min(len(e), 8)] }
	names := func(list string) string {
		var out []string
		for _, e := range gjson.Parse(list).Array() {
			if e.IsArray() { // [id, hashes] of room version 1
				e = e.Get("0")
			}
			out = append(out, short(e.Str))
		}
		return strings.Join(out, " ")
	}
	for _, e := range ids {
		get := func(path string) string { return gjson.Get(texts[e], path).String() }
		fmt.Fprintf(&b, "%4d %s hanse %-11s synapse %-11s %s %s %q by %s at %s\n     prev [%s] auth [%s]\n     %s\n", depth(e), e, onHanse[e], onSynapse[e],
			short(e), get("type"), get("state_key"), get("sender"), get("origin_server_ts"), names(get("prev_events")), names(get("auth_events")), get("content"))
	}
	return b.String()
}
