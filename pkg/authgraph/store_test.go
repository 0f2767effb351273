package authgraph_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"hanse/pkg/authgraph"
	"hanse/pkg/pg/pgtest"
)

const part = 7

// insert stores state events of a room, and beside each a message and a state event of another room.
func insert(t rapid.TB, db *pgxpool.Pool, room int64, nodes []authgraph.Node) {
	t.Helper()
	for _, n := range nodes {
		flags := int32(0)
		if n.Rejected {
			flags = 2
		}
		_, err := db.Exec(context.Background(), `
INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, flags, auth, prev, json)
SELECT $1, $2::bigint * 4 + i, CASE i WHEN 2 THEN -1 ELSE $3 END, '$' || $2 || ',' || i || ',' || $3, 1, $4, CASE i WHEN 1 THEN NULL ELSE $5 END, '@a:x', 0,
	CASE i WHEN 3 THEN 9 ELSE $6 END, CASE i WHEN 3 THEN '{}' ELSE $7::bigint[] END, '{}', ''
FROM generate_series(0, 3) i`, part, n.NID, room, n.Key.Type, n.Key.StateKey, flags, times4(n.Auth))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// times4 are the numeric ids that insert gives.
func times4(nids []int64) []int64 {
	out := make([]int64, len(nids))
	for i, n := range nids {
		out[i] = n * 4
	}
	return out
}

func stored(t rapid.TB, db *pgxpool.Pool, room int64) map[string]string {
	t.Helper()
	rows, err := db.Query(context.Background(), `SELECT seq, last_nid, encode(data, 'hex') FROM auth_block WHERE part = $1 AND room_nid = $2`, part, room)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	blocks := make(map[string]string)
	for rows.Next() {
		var seq, last int64
		var data string
		if err := rows.Scan(&seq, &last, &data); err != nil {
			t.Fatal(err)
		}
		blocks[fmt.Sprint(seq, " ", last)] = data
	}
	return blocks
}

func exec(t rapid.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// A graph is what the event table says, whoever reads it and whenever: cold, from blocks, from a cache that lags; and
// blocks that are deleted or damaged come back as they were.
func TestStore(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	room := int64(0)
	rapid.Check(t, func(t *rapid.T) {
		room++
		name := authgraph.Room{Part: part, NID: room}
		nodes := drawNodes(t)
		base := room * 1000
		want := authgraph.New()
		for i := range nodes { // numeric ids are of the partition
			nodes[i].NID += base
			for j := range nodes[i].Auth {
				nodes[i].Auth[j] += base
			}
			if nodes[i].Rejected = rapid.IntRange(0, 9).Draw(t, "rejected") == 0; nodes[i].Rejected {
				nodes[i].Auth = append(nodes[i].Auth, base) // which is no event; a message would do as well
			}
			n := nodes[i]
			n.NID, n.Auth = n.NID*4, times4(n.Auth)
			if err := want.Add(n); err != nil {
				t.Fatal(err)
			}
		}
		const block = 8
		stores := []*authgraph.Store{authgraph.NewStoreOf(1<<20, block), authgraph.NewStoreOf(1<<20, block)}
		check := func(n int) {
			t.Helper()
			s := stores[rapid.IntRange(0, 1).Draw(t, "store")]
			var has []int64
			if n > 0 {
				has = []int64{want.NID(authgraph.Index(n - 1))}
			}
			if err := s.View(ctx, db, name, has, func(g *authgraph.Graph) error { same(t, g, want, n); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; n < len(nodes); {
			more := rapid.IntRange(1, len(nodes)-n).Draw(t, "more")
			insert(t, db, room, nodes[n:n+more])
			n += more
			check(n)
		}
		g, err := stores[0].Load(ctx, db, name)
		if err != nil {
			t.Fatal(err)
		}
		same(t, g, want, len(nodes))
		blocks := stored(t, db, room)
		if len(blocks) != len(nodes)/block {
			t.Fatalf("%d blocks of %d events", len(blocks), len(nodes))
		}
		switch rapid.IntRange(0, 3).Draw(t, "damage") {
		case 0:
			exec(t, db, `DELETE FROM auth_block WHERE part = $1 AND room_nid = $2`, part, room)
		case 1:
			exec(t, db, `DELETE FROM auth_block WHERE part = $1 AND room_nid = $2 AND seq % 3 = 1`, part, room)
		case 2:
			exec(t, db, `UPDATE auth_block SET data = substr(data, 2) WHERE part = $1 AND room_nid = $2 AND seq % 3 = 1`, part, room)
		case 3:
			exec(t, db, `UPDATE auth_block SET last_nid = last_nid + 1 WHERE part = $1 AND room_nid = $2 AND seq = 0`, part, room)
		}
		if g, err = authgraph.NewStoreOf(1<<20, block).Load(ctx, db, name); err != nil {
			t.Fatal(err)
		}
		same(t, g, want, len(nodes))
		if again := stored(t, db, room); fmt.Sprint(again) != fmt.Sprint(blocks) {
			t.Fatalf("rebuilt blocks differ: %v, want %v", again, blocks)
		}
	})
}

// A graph beyond the budget is answered from all the same, and what is in the cache stays within it.
func TestStoreBudget(t *testing.T) {
	db := pgtest.New(t).For(part)
	s := authgraph.NewStoreOf(8<<10, 8)
	for room := int64(1); room <= 20; room++ {
		nodes := []authgraph.Node{{NID: room * 100, Key: levelsKey}}
		for i := int64(1); i < 30; i++ {
			nodes = append(nodes, authgraph.Node{NID: room*100 + i, Key: levelsKey, Auth: []int64{room*100 + i - 1}})
		}
		insert(t, db, room, nodes)
		last := nodes[29].NID * 4
		err := s.View(context.Background(), db, authgraph.Room{Part: part, NID: room}, []int64{last}, func(g *authgraph.Graph) error {
			chain, err := g.Chain([]authgraph.Index{g.Find(last)}, 29)
			if len(chain) != 29 {
				t.Errorf("a chain of %d", len(chain))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if s.Bytes() > 8<<10 {
			t.Fatalf("%d bytes in the cache", s.Bytes())
		}
	}
}

// An error of whoever looks at the graph is handed on, and a request that ends while another reads the graph ends.
func TestViewErrors(t *testing.T) {
	db := pgtest.New(t).For(part)
	s := authgraph.NewStoreOf(1<<20, 8)
	room := authgraph.Room{Part: part, NID: 1}
	wrong := errors.New("wrong")
	if err := s.View(context.Background(), db, room, nil, func(*authgraph.Graph) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.View(ctx, db, room, []int64{5}, func(*authgraph.Graph) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	var chains []int64
	insert(t, db, 1, []authgraph.Node{{NID: 1, Key: levelsKey}})
	err := s.View(context.Background(), db, room, []int64{4}, func(g *authgraph.Graph) error {
		chains = append(chains, g.Last())
		return nil
	})
	if err != nil || !slices.Equal(chains, []int64{4}) {
		t.Errorf("after errors: %v, %v", chains, err)
	}
}
