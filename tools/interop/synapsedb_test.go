//go:build interop

package interop

import (
	"path/filepath"
	"sync"
)

// reader asks Synapse's database.
type reader struct {
	mu     sync.Mutex
	script *python
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
	script, err := s.reader.started(s)
	if err != nil {
		return err
	}
	if args == nil {
		args = []any{}
	}
	return script.ask([]any{sql, args}, into)
}

func (r *reader) started(s *synapse) (script *python, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.script == nil {
		r.script, err = startPython(s.python, readerScript, filepath.Join(s.dir, "homeserver.db"))
	}
	return r.script, err
}

func (r *reader) stop() error { return r.script.stop() }
