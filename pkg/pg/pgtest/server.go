package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg"
	"hanse/pkg/pg/local"
)

// testServer is the server that this test process uses.
type testServer struct {
	base     string // connection string without a database
	admin    *pgxpool.Pool
	template string
	users    *os.File // locked, shared, as long as this process lives: see reaper
}

// server connects to the server, which it starts if nobody has yet, once in a process.
var server = func() func(context.Context) (*testServer, error) {
	var mu sync.Mutex
	var srv *testServer
	return func(ctx context.Context) (*testServer, error) {
		mu.Lock()
		defer mu.Unlock()
		if srv != nil {
			return srv, nil
		}
		s, err := open(ctx)
		if err != nil {
			return nil, err
		}
		srv = s
		return srv, nil
	}
}()

func open(ctx context.Context) (*testServer, error) {
	s := &testServer{base: os.Getenv("HANSE_TEST_PG")}
	if s.base == "" {
		if err := s.share(ctx); err != nil {
			return nil, err
		}
	}
	admin, err := pgxpool.New(ctx, s.base)
	if err != nil {
		return nil, err
	}
	s.admin = admin
	return s, s.ensureTemplate(ctx)
}

// share joins the users of the machine's test server and starts it if it is not running.
func (s *testServer) share(ctx context.Context) error {
	dir := filepath.Join(fastDir(), "hanse-pgtest-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	users, err := lock(filepath.Join(dir, "users"), syscall.LOCK_SH)
	if err != nil {
		return err
	}
	s.users = users
	start, err := lock(filepath.Join(dir, "start"), syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer start.Close()

	data := filepath.Join(dir, "data")
	if dsn, ok := local.Attach(data, "postgres"); ok && answers(ctx, dsn) {
		s.base = dsn
		return nil
	}
	srv, err := local.Start(ctx, local.Config{
		Dir: data, Unsafe: true, Detach: true,
		Settings: map[string]string{"max_connections": "500", "shared_buffers": "256MB", "log_min_messages": "fatal"},
	})
	if err != nil {
		return err
	}
	s.base = srv.DSN("postgres")
	return reaper(dir, srv.PID())
}

// fastDir is where the server's data go: memory where there is enough of it, for a database is 300 files, and making
// them takes half a second on some disks.
func fastDir() string {
	const shm, enough = "/dev/shm", 2 << 30
	var st syscall.Statfs_t
	if err := syscall.Statfs(shm, &st); err == nil && st.Bavail*uint64(st.Bsize) >= enough {
		return shm
	}
	return os.TempDir()
}

func answers(ctx context.Context, dsn string) bool {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return false
	}
	return conn.Close(ctx) == nil
}

// lock opens a file and locks it until it is closed or the process ends.
func lock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// reaperScript stops the server when no test process has held the lock for two minutes, and removes its data.
const reaperScript = `
idle=0
while sleep 10; do
  kill -0 "$PG" 2>/dev/null || exit 0
  if flock -n -x "$DIR/users" true; then idle=$((idle+1)); else idle=0; fi
  [ $idle -lt 12 ] && continue
  exec flock -n -x "$DIR/users" sh -c '
    kill -INT "$PG"
    while kill -0 "$PG" 2>/dev/null; do sleep 0.1; done
    rm -rf "$DIR/data" "$DIR/data.log"'
done`

func reaper(dir string, pid int) error {
	cmd := exec.Command("sh", "-c", reaperScript)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "DIR="+dir, "PG="+strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start reaper: %w", err)
	}
	return cmd.Process.Release()
}

// ensureTemplate makes the database that tests are cloned from, named by the content of the migrations.
func (s *testServer) ensureTemplate(ctx context.Context) error {
	sum, err := migrationsHash()
	if err != nil {
		return err
	}
	s.template = "template_" + sum
	conn, err := pgx.Connect(ctx, s.base)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // gives the lock back
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext('hanse pgtest'))`); err != nil {
		return err
	}
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, s.template).Scan(&exists)
	if err != nil || exists {
		return err
	}
	building := s.template + "_new"
	if err := s.drop(ctx, building); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+building); err != nil {
		return err
	}
	if err := migrate(ctx, s.dsn(building)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+s.template)
	return err
}

func migrate(ctx context.Context, dsn string) error {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	return pg.Migrate(ctx, pool)
}

func migrationsHash() (string, error) {
	files, names, err := pg.Migrations()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// dsn names one of the server's databases.
func (s *testServer) dsn(database string) string {
	cfg, err := pgx.ParseConfig(s.base)
	if err != nil { // it connected before
		panic(err)
	}
	return fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s' sslmode=%s",
		quote(cfg.Host), cfg.Port, quote(cfg.User), quote(cfg.Password), quote(database), sslmode(cfg))
}
