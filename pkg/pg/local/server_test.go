package local_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/pg/local"
)

// A data directory that only this process's account can reach by its path.
func privateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "deep", "pg")
}

func start(t *testing.T, dir string) *local.Server {
	t.Helper()
	s, err := local.Start(t.Context(), local.Config{Dir: dir, Settings: map[string]string{"shared_buffers": "1MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Crash) // does nothing if it has been stopped
	return s
}

func exec1(t *testing.T, s *local.Server, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("hanse"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestStopCrashRestartFindTheData(t *testing.T) {
	dir := privateDir(t)
	s := start(t, dir)
	if err := s.EnsureDatabase(t.Context(), "hanse"); err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureDatabase(t.Context(), "hanse"); err != nil {
		t.Fatal(err)
	}
	exec1(t, s, `CREATE TABLE x (v int); INSERT INTO x VALUES (1)`)
	if dsn, ok := local.Attach(dir, "hanse"); !ok || dsn != s.DSN("hanse") {
		t.Errorf("Attach = %q, %v", dsn, ok)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if dsn, ok := local.Attach(dir, "hanse"); ok {
		t.Errorf("Attach to a stopped server = %q", dsn)
	}

	s = start(t, dir)
	exec1(t, s, `INSERT INTO x VALUES (2)`)
	s.Crash()

	s = start(t, dir)
	exec1(t, s, `DO $$ BEGIN ASSERT (SELECT sum(v) FROM x) = 3; END $$`)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A server that a killed parent left behind is ended, not waited for in vain and not disturbed in its data.
func TestOrphanIsReplaced(t *testing.T) {
	dir := privateDir(t)
	first, err := local.Start(t.Context(), local.Config{Dir: dir, Detach: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.Crash)
	second := start(t, dir)
	select {
	case <-first.Exited():
	default:
		t.Error("the first server still runs")
	}
	if first.PID() == second.PID() {
		t.Error("there is no second server")
	}
}

// The file of a server that died with the machine names a process that is now something else.
func TestStalePidFile(t *testing.T) {
	dir := privateDir(t)
	s := start(t, dir)
	content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Signal(syscall.SIGKILL); _ = other.Wait() }()
	_, rest, _ := strings.Cut(string(content), "\n")
	stale := strconv.Itoa(other.Process.Pid) + "\n" + rest
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
}

func TestStartFailsWithAReason(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.MkdirAll(filepath.Join(dir, "something"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Start(t.Context(), local.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not a PostgreSQL data directory") {
		t.Errorf("err = %v", err)
	}
	dir = privateDir(t)
	_, err := local.Start(t.Context(), local.Config{Dir: dir, Settings: map[string]string{"shared_buffers": "nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "pg.log") {
		t.Errorf("err = %v", err)
	}
}

// What an operator has exported for another server changes nothing for a private one.
func TestLibpqVariablesAreIgnored(t *testing.T) {
	for name, value := range map[string]string{
		"PGHOST": "elsewhere.example", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "nothing", "PGPASSWORD": "secret",
		"PGSSLMODE": "verify-full", "PGSERVICE": "missing", "PGTARGETSESSIONATTRS": "read-only", "PGOPTIONS": "-c nonsense=1",
	} {
		t.Setenv(name, value)
	}
	dir := privateDir(t)
	s := start(t, dir)
	if err := s.EnsureDatabase(t.Context(), "hanse"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPORT", "1")
	dsn, ok := local.Attach(dir, "hanse")
	if !ok || dsn != s.DSN("hanse") {
		t.Fatalf("Attach = %q, %v", dsn, ok)
	}
	exec1(t, s, `SELECT 1`)
	if value, set := os.LookupEnv("PGPORT"); set {
		t.Errorf("children inherit PGPORT=%s", value)
	}
}
