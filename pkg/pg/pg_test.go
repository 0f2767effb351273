package pg_test

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
)

func TestEveryPartitionHasOneShard(t *testing.T) {
	s := pgtest.NewSharded(t, 3)
	if s.P() != pg.DefaultPartitions {
		t.Fatalf("P = %d, want %d", s.P(), pg.DefaultPartitions)
	}
	count := make(map[*pgxpool.Pool]int)
	for part := range s.P() {
		var epoch int64
		err := s.For(part).QueryRow(t.Context(), `SELECT epoch FROM partition WHERE part = $1`, int32(part)).Scan(&epoch)
		if err != nil {
			t.Fatalf("partition %d: %v", part, err)
		}
		count[s.For(part)]++
	}
	for _, pool := range s.All() {
		if n := count[pool]; n < 21 || n > 22 {
			t.Errorf("a shard holds %d of 64 partitions", n)
		}
	}
	groups := s.Groups([]uint32{0, 1, 2, 3, 4, 5})
	if len(groups) != 3 {
		t.Errorf("six neighbours are on %d shards, want 3", len(groups))
	}
}

func TestMismatchingStartIsRefused(t *testing.T) {
	cfg := pgtest.Config(t, 2)
	first := pgtest.Open(t, cfg)
	other := pgtest.Config(t, 2)
	pgtest.Open(t, other)

	refused := map[string]func(c *pg.Config){
		"shards in another order":  func(c *pg.Config) { c.Shards = []string{cfg.Shards[1], cfg.Shards[0]} },
		"one shard missing":        func(c *pg.Config) { c.Shards = cfg.Shards[:1] },
		"shard of another cluster": func(c *pg.Config) { c.Shards = []string{cfg.Shards[0], other.Shards[1]} },
		"another P":                func(c *pg.Config) { c.Partitions = 32 },
		"one more shard":           func(c *pg.Config) { c.Shards = append(cfg.Shards[:2:2], pgtest.Database(t)) },
	}
	for name, change := range refused {
		t.Run(name, func(t *testing.T) {
			c := cfg
			change(&c)
			s, err := pg.Open(t.Context(), c)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			t.Log(err)
		})
	}
	again := pgtest.Open(t, cfg)
	if again.ClusterID() != first.ClusterID() || again.ClusterID() == "" {
		t.Errorf("cluster id %q, then %q", first.ClusterID(), again.ClusterID())
	}
}

func TestManyReplicasStartAtOnce(t *testing.T) {
	cfg := pgtest.Config(t, 2)
	cfg.Migrate = true
	for _, dsn := range cfg.Shards { // empty databases: everybody has everything to do
		pool, err := pgxpool.New(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pool.Exec(t.Context(), `DROP SCHEMA public CASCADE; CREATE SCHEMA public`)
		pool.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	var g errgroup.Group
	ids := make([]string, 6)
	for i := range ids {
		g.Go(func() error {
			s, err := pg.Open(t.Context(), cfg)
			if err != nil {
				return err
			}
			defer s.Close()
			ids[i] = s.ClusterID()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("replicas see different clusters: %q", ids)
		}
	}
}

// A migration that replaces or builds an index on a table that may be large does so beside those who use the table, and one that was
// broken off is begun anew. Databases to which it was applied in its first form stay as they are.
func TestMigrationsBrokenOff(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	cfg.Migrate = true
	pool, err := pgxpool.New(t.Context(), cfg.Shards[0])
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exec := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	indexes := func() (defs []string) {
		t.Helper()
		rows, err := pool.Query(t.Context(), `SELECT pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' broken' END FROM pg_index i
			JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		if defs, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
		return defs
	}
	want := indexes()
	exec(`DELETE FROM goose_db_version WHERE version_id IN (81, 90, 102)`)
	exec(`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'account_avatar'::regclass`)
	exec(`CREATE INDEX relation_sender_new ON relation (part)`)
	exec(`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'relation_sender_new'::regclass`)
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (1, 1, '!a:b', '11', 0, '{}', 1)`)
	exec(`INSERT INTO event (part, room_nid, event_nid, event_id, ord, type, sender, depth, origin_ts, sid, flags, auth, prev, json)
		VALUES (1, 1, 1, '$a', 1, 'm.room.message', '@a:b', 1, 77, 0, 0, '{}', '{}', '{}')`)
	exec(`UPDATE room SET active_ts = 0, bump_ts = 0`)
	var g errgroup.Group
	for range 4 { // the others wait meanwhile
		g.Go(func() error {
			s, err := pg.Open(t.Context(), cfg)
			if err == nil {
				s.Close()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := indexes(); !slices.Equal(got, want) {
		t.Errorf("indexes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var active int64
	if err := pool.QueryRow(t.Context(), `SELECT active_ts FROM room`).Scan(&active); err != nil || active != 77 {
		t.Errorf("active at %d, %v", active, err)
	}
}

// A migration builds an index on a table that is there already beside those who use it, and changes rows of such a table in pieces. The
// exceptions are from before the first release, or about tables that are small.
func TestMigrationsHoldNoTable(t *testing.T) {
	exceptions := []string{"00030_authgraph.sql", "00031_partial_state.sql", "00063_holes.sql"}
	files, names, err := pg.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	created := regexp.MustCompile(`(?m)^CREATE TABLE (\w+)`)
	indexed := regexp.MustCompile(`(?m)^CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?\w+ ON (\w+)`)
	updated := regexp.MustCompile(`(?m)^UPDATE `)
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		var tables []string
		for _, m := range created.FindAllStringSubmatch(up, -1) {
			tables = append(tables, m[1])
		}
		if slices.Contains(exceptions, name) {
			continue
		}
		for _, m := range indexed.FindAllStringSubmatch(up, -1) {
			if !slices.Contains(tables, m[2]) && m[1] == "" {
				t.Errorf("%s builds an index on %s under a lock", name, m[2])
			}
		}
		if updated.MatchString(up) {
			t.Errorf("%s changes all rows of a table in one transaction", name)
		}
		if strings.Contains(up, "CONCURRENTLY") != strings.Contains(up, "NO TRANSACTION") && !strings.Contains(up, "COMMIT;") {
			t.Errorf("%s: CONCURRENTLY and NO TRANSACTION go together", name)
		}
	}
}

func TestSchemaBehindIsRefusedWithoutMigrate(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	pool, err := pgxpool.New(t.Context(), cfg.Shards[0])
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id = 10`); err != nil {
		t.Fatal(err)
	}
	s, err := pg.Open(t.Context(), cfg)
	if !errors.Is(err, pg.ErrSchemaBehind) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("err = %v, want ErrSchemaBehind", err)
	}
}

func TestInTx(t *testing.T) {
	pool := pgtest.Pool(t)
	ctx := t.Context()
	boom := errors.New("boom")
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE partition SET head = 7 WHERE part = 1`); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) || pg.Ambiguous(err) {
		t.Fatalf("err = %v", err)
	}
	var head int64
	if err := pool.QueryRow(ctx, `SELECT head FROM partition WHERE part = 1`).Scan(&head); err != nil || head != 0 {
		t.Fatalf("head = %d, %v; the transaction was not rolled back", head, err)
	}
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO partition (part) VALUES (1)`)
		return err
	})
	if !pg.IsUnique(err, "partition_pkey") || !pg.IsUnique(err, "") || pg.IsUnique(err, "other") || pg.Transient(err) {
		t.Fatalf("err = %v", err)
	}
}

// The server goes away while it commits: nobody knows.
func TestLostCommitIsAmbiguousAndTransient(t *testing.T) {
	pool := pgtest.Pool(t)
	ctx := t.Context()
	_, err := pool.Exec(ctx, `
		CREATE TABLE cut (x int);
		CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON cut DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cut()`)
	if err != nil {
		t.Fatal(err)
	}
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO cut VALUES (1)`)
		return err
	})
	if err == nil || !pg.Ambiguous(err) || !pg.Transient(err) {
		t.Fatalf("err = %v, ambiguous %v, transient %v", err, pg.Ambiguous(err), pg.Transient(err))
	}
}

// The connection was gone before COMMIT was sent: it did not happen.
func TestConnectionLostBeforeCommitIsNotAmbiguous(t *testing.T) {
	pool := pgtest.Pool(t)
	ctx := t.Context()
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		var pid int
		if err := tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			return err
		}
		_, err := pool.Exec(ctx, `SELECT pg_terminate_backend($1, 5000)`, pid)
		return err
	})
	if err == nil || !pg.Transient(err) {
		t.Fatalf("err = %v, transient %v", err, pg.Transient(err))
	}
}

func TestRefusedConnectionIsTransient(t *testing.T) {
	_, err := pgx.Connect(t.Context(), "host=127.0.0.1 port=1 user=x dbname=x connect_timeout=2")
	if !pg.Transient(err) || pg.Ambiguous(err) {
		t.Fatalf("err = %v", err)
	}
}

func BenchmarkDatabase(b *testing.B) {
	pgtest.Database(b)
	b.ResetTimer()
	for b.Loop() {
		pgtest.New(b)
	}
}

// A server that was the primary, and only reads now, is left: its connections end at the first write, and that is tried again.
func TestReadOnlyServerIsLeft(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	cfg.MaxConns = 2
	pool := pgtest.Open(t, cfg).All()[0]
	var held []*pgxpool.Conn
	for range cfg.MaxConns {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "SET default_transaction_read_only = on"); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		conn.Release()
	}
	for try := range cfg.MaxConns + 1 {
		_, err := pool.Exec(t.Context(), fmt.Sprintf("CREATE TABLE left_%d ()", try))
		if err == nil {
			return
		}
		if !pg.Transient(err) || pg.Ambiguous(err) {
			t.Fatalf("%v is not tried again", err)
		}
	}
	t.Error("connections to a server that only reads are kept")
}

func TestCollectorKnowsEachShard(t *testing.T) {
	s := pgtest.NewSharded(t, 2)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.Collector())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "hanse_postgres_connections" && len(f.GetMetric()) != 6 {
			t.Errorf("%d connection gauges, want 3 for each of 2 shards", len(f.GetMetric()))
		}
	}
	if len(families) != 4 {
		t.Errorf("%d families", len(families))
	}
}
