//go:build interop

package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// reader asks Synapse's database: a Python process that reads it.
type reader struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

const readerScript = `
import json, sqlite3, sys
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True, timeout=30)
for line in sys.stdin:
    sql, args = json.loads(line)
    print(db.execute(sql, args).fetchone()[0], flush=True)
`

// query runs a query whose answer is one row of one column, a JSON text.
func (s *synapse) query(sql string, into any, args ...any) error {
	s.reader.mu.Lock()
	defer s.reader.mu.Unlock()
	if s.reader.cmd == nil {
		if err := s.reader.start(s.python, filepath.Join(s.dir, "homeserver.db")); err != nil {
			return err
		}
	}
	if args == nil {
		args = []any{}
	}
	request, err := json.Marshal([]any{sql, args})
	if err != nil {
		return err
	}
	if _, err := s.reader.in.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("ask Synapse's database: %w", err)
	}
	line, err := s.reader.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ask Synapse's database: %w", err)
	}
	return json.Unmarshal(line, into)
}

func (r *reader) start(python, database string) (err error) {
	cmd := exec.Command(python, "-c", readerScript, database)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	r.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return err
	}
	r.cmd = cmd
	return nil
}

func (r *reader) stop() error {
	if r.cmd == nil {
		return nil
	}
	return errors.Join(r.in.Close(), r.cmd.Wait())
}
