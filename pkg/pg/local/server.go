package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the role that owns everything in a private server.
const User = "hanse"

// Config says how to run one server.
type Config struct {
	// Dir is the data directory. It is created, with parents, if it is missing.
	Dir string
	// Settings are added to the server's command line.
	Settings map[string]string
	// Unsafe turns off all that guards data against a crash; for tests.
	Unsafe bool
	// Sockets is the directory of the server's socket, that it may be found where it was; empty: a new one.
	Sockets string
	// Detach lets the server outlive this process; for tests, which share one.
	Detach bool
}

// Server is a running PostgreSQL server.
type Server struct {
	dir     string
	sockets string
	pid     int
	exited  chan struct{} // closed when the child has been reaped
	exitErr error         // valid after exited
}

// stopPatience is how long a fast shutdown may take (it writes all that is dirty) before the server is made to quit
// without.
const stopPatience = 60 * time.Second

// Start starts the server of a data directory and returns when it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	forgetLibpq()
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := stopOrphan(ctx, dir); err != nil {
		return nil, err
	}
	acc, err := accountFor(dir)
	if err != nil {
		return nil, err
	}
	programs, err := prepare(ctx, dir, acc)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", dir, err)
	}
	s, err := launch(cfg, dir, programs, acc)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := s.awaitReady(ctx); err != nil {
		s.quit()
		return nil, fmt.Errorf("start PostgreSQL: %w; its log is %s", err, logFile(dir))
	}
	return s, nil
}

// logFile is beside the data directory: what PostgreSQL says belongs to the operator.
func logFile(dir string) string { return dir + ".log" }

func launch(cfg Config, dir string, programs Programs, acc account) (*Server, error) {
	open, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	log, err := os.OpenFile(logFile(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	sockets, err := socketDir(cfg.Sockets, acc)
	if err != nil {
		return nil, err
	}
	args := []string{"-D", inheritedDir, "-c", "listen_addresses=", "-k", sockets, "-p", port}
	for k, v := range settings(cfg) {
		args = append(args, "-c", k+"="+v)
	}
	cmd := exec.Command(filepath.Join(programs.Dir, "postgres"), args...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.ExtraFiles = []*os.File{open}
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C at the terminal is for Hanse, which stops the database last.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: acc.cred, Setsid: true}
	if !cfg.Detach {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	}
	s := &Server{dir: dir, sockets: sockets, exited: make(chan struct{})}
	started := make(chan error)
	go s.parent(cmd, started)
	if err := <-started; err != nil {
		_ = os.RemoveAll(sockets)
		return nil, err
	}
	return s, nil
}

// socketDir makes the directory of the socket. It is not in the data directory: the name of a socket must be short,
// and the server must reach it by that name.
func socketDir(dir string, acc account) (string, error) {
	var err error
	if dir == "" {
		dir, err = os.MkdirTemp("", "hanse-pg-")
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", err
	}
	return dir, os.Chown(dir, acc.uid, acc.gid)
}

// parent starts the child and waits for its end on one thread: the kernel sends the parent-death signal when the
// thread that started the child ends, not the process.
func (s *Server) parent(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	s.pid = cmd.Process.Pid
	started <- nil
	s.exitErr = cmd.Wait()
	_ = os.RemoveAll(s.sockets)
	close(s.exited)
}

// environment is what the server inherits: nothing that would change how it works.
func environment() []string {
	env := []string{"LC_ALL=C.UTF-8", "TZ=UTC"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "PATH=") || strings.HasPrefix(kv, "LD_LIBRARY_PATH=") {
			env = append(env, kv)
		}
	}
	return env
}

func settings(cfg Config) map[string]string {
	set := map[string]string{
		"shared_buffers":             "128MB",
		"max_connections":            "200",
		"max_wal_size":               "2GB",
		"wal_compression":            "on",
		"checkpoint_timeout":         "15min",
		"jit":                        "off",
		"random_page_cost":           "1.1",
		"unix_socket_permissions":    "0700",
		"log_min_messages":           "warning",
		"log_line_prefix":            "%m [%p] ",
		"log_checkpoints":            "off",
		"timezone":                   "UTC",
		"autovacuum_naptime":         "20s",
		"password_encryption":        "scram-sha-256",
		"log_min_duration_statement": "5s",
	}
	if cfg.Unsafe {
		set["fsync"] = "off"
		set["synchronous_commit"] = "off"
		set["full_page_writes"] = "off"
		set["wal_level"] = "minimal"
		set["max_wal_senders"] = "0"
		set["autovacuum"] = "off"
	}
	for k, v := range cfg.Settings {
		set[k] = v
	}
	return set
}

// port is in the name of a server's socket; nobody listens on it.
const port = "5432"

// DSN returns the connection string of one of the server's databases.
func (s *Server) DSN(database string) string { return dsn(s.sockets, database) }

func dsn(sockets, database string) string {
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", sockets, port, User, database)
}

// forgetLibpq takes the variables from the environment with which libpq and pgx complete a connection string: an
// operator has them for another server, and a private one is named in full. What this process starts inherits none.
func forgetLibpq() {
	for _, name := range []string{
		"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS",
		"PGAPPNAME", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION",
		"PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLKEY", "PGSSLCERT", "PGSSLCERTMODE", "PGSSLROOTCERT", "PGSSLPASSWORD", "PGSSLSNI",
		"PGREQUIREAUTH", "PGCHANNELBINDING", "PGGSSENCMODE", "PGKRBSRVNAME", "PGTZ", "PGDATESTYLE", "PGCLIENTENCODING",
	} {
		_ = os.Unsetenv(name) // fails for names with '=' only
	}
}

// Sockets returns the directory of the server's socket.
func (s *Server) Sockets() string { return s.sockets }

// PID returns the process id of the server.
func (s *Server) PID() int { return s.pid }

// Exited is closed when the server process has ended, whatever the reason.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Attach returns the connection string of a server that somebody else started on the data directory, and whether
// there is one.
func Attach(dir, database string) (string, bool) {
	forgetLibpq()
	pm, err := readPostmaster(dir)
	if err != nil || !pm.alive() {
		return "", false
	}
	return dsn(pm.sockets, database), true
}

// EnsureDatabase creates a database if it is missing.
func (s *Server) EnsureDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	defer conn.Close(ctx)
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&exists)
	if err != nil || exists {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		conn, err := pgx.Connect(ctx, s.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		last = err
		select {
		case <-s.exited:
			return fmt.Errorf("it ended at once: %w", s.exitErr)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// Stop ends the server cleanly: open transactions are rolled back, everything is on disk. It returns when the
// process is gone.
func (s *Server) Stop() error {
	if err := signal(s.pid, syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopPatience):
		s.quit()
		return errors.New("stop PostgreSQL: it did not end in time and was made to quit; it will recover at its next start")
	}
}

// Crash ends the server at once and without a checkpoint, as a power failure would; for tests.
func (s *Server) Crash() { s.quit() }

func (s *Server) quit() {
	if err := signal(s.pid, syscall.SIGQUIT); err != nil {
		return
	}
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		_ = signal(s.pid, syscall.SIGKILL)
		<-s.exited
	}
}

func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal PostgreSQL: %w", err)
	}
	return nil
}

// postmaster is what a running server wrote into postmaster.pid.
type postmaster struct {
	pid     int
	sockets string
}

func readPostmaster(dir string) (postmaster, error) {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return postmaster{}, err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 5 {
		return postmaster{}, fs.ErrNotExist // being written
	}
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return postmaster{}, fmt.Errorf("postmaster.pid: %w", err)
	}
	return postmaster{pid: pid, sockets: lines[4]}, nil
}

// alive reports whether the process exists and is a PostgreSQL server; after a restart of the machine another
// program may have its number.
func (p postmaster) alive() bool {
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/comm")
	return err == nil && strings.HasPrefix(string(comm), "postgres")
}

// stopOrphan ends a server that outlived whoever started it. The caller holds the lock of the data directory, so
// nobody else's is running.
func stopOrphan(ctx context.Context, dir string) error {
	pm, err := readPostmaster(dir)
	if err != nil {
		return nil //nolint:nilerr // no file, or one that PostgreSQL itself judges at its start
	}
	if !pm.alive() {
		// The process number may belong to another program by now, which PostgreSQL would take for itself.
		return os.Remove(filepath.Join(dir, "postmaster.pid"))
	}
	if err := signal(pm.pid, syscall.SIGINT); err != nil {
		return err
	}
	deadline := time.Now().Add(stopPatience)
	for pm.alive() {
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL (process %d) still runs in %s and does not stop", pm.pid, dir)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	_ = os.RemoveAll(pm.sockets)
	return nil
}
