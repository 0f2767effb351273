package search

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/growth"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/words"
)

const part = 7

// store puts messages into a room, as events; the number of a message is its number in the partition and its time.
func store(t testing.TB, shards *pg.Shards, room int64, first int64, texts ...string) {
	t.Helper()
	ctx := context.Background()
	exec(t, shards, `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, $2::bigint, '!r' || $2::bigint || ':x', '11', 0, '{}', 0)
		ON CONFLICT DO NOTHING`, part, room)
	var b pgx.Batch
	for i, text := range texts {
		nid := first + int64(i)
		json := fmt.Sprintf(`{"auth_events":[],"content":{"body":%q},"depth":1,"origin_server_ts":%d,"prev_events":[],"room_id":"!r%d:x","sender":"@a:x","type":"m.room.message"}`, text, nid, room)
		b.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, auth, prev, json)
			VALUES ($1, $2::bigint, $3, '$' || $2::bigint, $2::bigint, 1, 'm.room.message', '@a:x', $2::bigint, '{}', '{}', $4)`, part, nid, room, []byte(json))
	}
	if err := shards.For(part).SendBatch(ctx, &b).Close(); err != nil {
		t.Fatal(err)
	}
}

func exec(t testing.TB, shards *pg.Shards, sql string, args ...any) {
	t.Helper()
	if _, err := shards.For(part).Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func rebuild(t testing.TB, shards *pg.Shards) {
	t.Helper()
	for after := int64(0); ; {
		last, err := Rebuild(context.Background(), shards, part, after)
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			return
		}
		after = last
	}
}

func query(text string, rooms ...int64) Query {
	q := Query{Fields: []Field{Body, Name, Topic}, Limit: 100}
	q.Words, _ = words.Query(text, MaxQuery)
	for _, r := range rooms {
		q.Rooms = append(q.Rooms, roomdb.RoomKey{Part: part, NID: r})
	}
	return q
}

func find(t testing.TB, shards *pg.Shards, q Query) (nids []int64) {
	t.Helper()
	hits, err := Find(context.Background(), shards, q)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hits {
		if !h.Gone {
			nids = append(nids, h.NID)
		}
	}
	return nids
}

// What is found, in which order, and where.
func TestFind(t *testing.T) {
	shards := pgtest.New(t)
	store(t, shards, 1, 1, "Hello world", "hello", "it's a 'quoted' \\ word", "我们明天去北京开会", "东京", "HELLO, brave new WORLD of hello")
	store(t, shards, 2, 101, "hello from elsewhere", "北京")
	rebuild(t, shards)
	for _, c := range []struct {
		text  string
		rooms []int64
		rank  bool
		want  []int64
	}{
		{"hello", []int64{1}, false, []int64{6, 2, 1}},
		{"hello", []int64{1}, true, []int64{2, 1, 6}},
		{"hello", []int64{1, 2}, false, []int64{101, 6, 2, 1}},
		{"World HELLO", []int64{1}, true, []int64{1, 6}},
		{"北京", []int64{1, 2}, false, []int64{102, 4}},
		{"京开", []int64{1}, false, []int64{4}},
		{"it's 'quoted'", []int64{1}, false, []int64{3}},
		{"hell", []int64{1}, false, nil},
		{"hello", []int64{3}, false, nil},
		{"hello & | ! <-> :*", []int64{2}, false, []int64{101}},
		{"&|!():*", []int64{1}, false, nil},
		{"", []int64{1}, false, nil},
	} {
		q := query(c.text, c.rooms...)
		q.ByRank = c.rank
		if got := find(t, shards, q); !slices.Equal(got, c.want) {
			t.Errorf("%q in %v: %v, want %v", c.text, c.rooms, got, c.want)
		}
		// The same, one by one.
		var pages []int64
		for q.Limit = 1; ; {
			hits, err := Find(t.Context(), shards, q)
			if err != nil {
				t.Fatal(err)
			}
			if len(hits) == 0 {
				break
			}
			pages, q.After = append(pages, hits[0].NID), &hits[0].Key
		}
		if !slices.Equal(pages, c.want) {
			t.Errorf("%q in %v, in pages: %v, want %v", c.text, c.rooms, pages, c.want)
		}
	}
	q := query("hello", 1)
	q.Fields = []Field{Topic}
	if got := find(t, shards, q); got != nil {
		t.Errorf("in topics: %v", got)
	}
}

// What is redacted is not found from that moment on, and has no words once the index has followed; it may be made anew at any time.
func TestRedactedIsGone(t *testing.T) {
	shards := pgtest.New(t)
	store(t, shards, 1, 1, "secret one", "secret two", "secret three")
	rebuild(t, shards)
	exec(t, shards, `UPDATE event SET redacted_by = 3 WHERE part = $1 AND event_nid = 1`, part)
	if got := find(t, shards, query("secret", 1)); !slices.Equal(got, []int64{3, 2}) {
		t.Errorf("after the redaction: %v", got)
	}
	var b pgx.Batch
	QueueRemove(&b, part, []string{"$1", "$none"})
	if err := shards.For(part).SendBatch(t.Context(), &b).Close(); err != nil {
		t.Fatal(err)
	}
	rows := func() (n int) {
		if err := shards.For(part).QueryRow(t.Context(), `SELECT count(*) FROM search`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := rows(); n != 2 {
		t.Errorf("%d rows", n)
	}
	exec(t, shards, `UPDATE event SET redacted_by = 3 WHERE part = $1 AND event_nid = 2`, part)
	rebuild(t, shards)
	rebuild(t, shards)
	if n := rows(); n != 1 || !slices.Equal(find(t, shards, query("secret", 1)), []int64{3}) {
		t.Errorf("%d rows after it was made anew", n)
	}
}

// A search costs one statement, and reads about as much however many messages there are: docs/search.md.
func TestSearchCostsNothing(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	counter := pgtest.Counted(&cfg)
	shards := pgtest.Open(t, cfg)
	first := int64(1)
	growth.Flat(t, "a search", 200, 4000, 1.5, func(size int) growth.Cost {
		texts := make([]string, size)
		for i := range texts {
			texts[i] = fmt.Sprintf("message number %d of many others", i)
		}
		texts[size/2] = "the needle in the hay"
		store(t, shards, int64(size), first, texts...)
		first += int64(size)
		rebuild(t, shards)
		exec(t, shards, `ANALYZE search`)
		if got := find(t, shards, query("needle", int64(size))); len(got) != 1 {
			t.Fatalf("%v", got)
		}
		statements, rows := counter.Each(5, func(int) { find(t, shards, query("needle", int64(size))) })
		return growth.Cost{"statements": statements, "rows": rows}
	})
}

// What of an event is searched (client-server API, "Search Categories").
func TestText(t *testing.T) {
	for _, c := range []struct {
		typ, content string
		state        bool
		want         string
	}{
		{"m.room.message", `{"body":"x","formatted_body":"y"}`, false, "x"},
		{"m.room.message", `{"body":5}`, false, ""},
		{"m.room.message", `{"body":"x"}`, true, ""},
		{"m.room.name", `{"name":"x"}`, true, "x"},
		{"m.room.name", `{"name":"x"}`, false, ""},
		{"m.room.topic", `{"topic":"x","m.topic":{"m.text":[{"body":"y","mimetype":"text/html"},{"body":"z"}]}}`, true, "x z"},
		{"m.room.encrypted", `{"body":"x","ciphertext":"y"}`, false, ""},
		{"m.room.topic", `5`, true, ""}, {"m.room.message", ``, false, ""},
	} {
		_, got, ok := Text(c.typ, c.state, []byte(c.content))
		if strings.TrimSpace(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s %s: %q, %t", c.typ, c.content, got, ok)
		}
	}
}

// BenchmarkFind measures a search in HANSE_SIZE messages of 200 rooms, and the size of the index.
func BenchmarkFind(b *testing.B) {
	shards := pgtest.New(b)
	vocabulary := make([]string, 20_000)
	for i := range vocabulary {
		vocabulary[i] = fmt.Sprintf("w%x", i*7919%1_000_003)
	}
	for _, size := range growth.Sizes(20_000, 200_000, 1_000_000) {
		exec(b, shards, `TRUNCATE event, room, search`)
		n, bytes := int64(1), 0
		for n <= int64(size) {
			texts := make([]string, 5000)
			for i := range texts {
				var text []string
				for k := range 10 {
					at := (int(n)+i)*31 + k*k*977
					at = at * (1 + at%7) % len(vocabulary)
					if k < 4 {
						at %= 100
					}
					text = append(text, vocabulary[at])
				}
				texts[i] = strings.Join(text, " ")
				bytes += len(texts[i])
			}
			store(b, shards, n/5000%200+1, n, texts...)
			n += 5000
		}
		start := time.Now()
		rebuild(b, shards)
		took := time.Since(start)
		exec(b, shards, `VACUUM ANALYZE search`)
		var index, table int64
		if err := shards.For(part).QueryRow(b.Context(), `SELECT pg_relation_size('search_words'), pg_table_size('search')`).Scan(&index, &table); err != nil {
			b.Fatal(err)
		}
		all := make([]int64, 200)
		for i := range all {
			all[i] = int64(i + 1)
		}
		for name, rooms := range map[string][]int64{"room": {1}, "rooms": all} {
			for _, words := range []int{1, 2} {
				b.Run(fmt.Sprintf("%d/%s/%d", size, name, words), func(b *testing.B) {
					for i := 0; b.Loop(); i++ {
						q := query(strings.Join(vocabulary[100+i%1000:][:words], " "), rooms...)
						q.Limit = 10
						find(b, shards, q)
					}
					b.ReportMetric(float64(index)/float64(bytes), "index/text")
					b.ReportMetric(float64(table)/float64(bytes), "table/text")
					b.ReportMetric(float64(took.Microseconds())/float64(size), "µs/indexed")
				})
			}
		}
	}
}
