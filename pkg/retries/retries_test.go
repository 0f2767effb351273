package retries

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// An outage is two lines, however many attempts fail.
func TestTwoLinesForAnOutage(t *testing.T) {
	var out bytes.Buffer
	l := Log{To: slog.New(slog.NewTextHandler(&out, nil)), What: "reading"}
	l.Note(nil)
	for range 3 {
		for range 5 {
			l.Note(errors.New("away"), "part", 7)
		}
		l.Note(nil)
		l.Note(nil)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 6 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	for i, line := range lines {
		want := []string{`level=WARN msg="reading failed, and is tried again" part=7 err=away`, `level=INFO msg="reading succeeds again" failed=5 after=`}[i%2]
		if !strings.Contains(line, want) {
			t.Errorf("line %d is %q, want %q", i, line, want)
		}
	}
}
