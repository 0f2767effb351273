package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each table of this command stands in docs behind its mark, with the rows that it has here, and each mark names one.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range marked.FindAllStringSubmatch(string(b), -1) {
			table, ok := find(m[1])
			if !ok || seen[m[1]] {
				t.Errorf("%s: mark %q, seen %t", file, m[1], seen[m[1]])
				continue
			}
			seen[m[1]] = true
			lines := strings.Split(strings.TrimSpace(m[2]), "\n")
			if len(lines) != len(table.rows)+2 || !strings.HasPrefix(lines[0], "| "+table.head+" |") {
				t.Errorf("%s: table %s has %d lines, the first %q", file, m[1], len(lines), lines[0])
				continue
			}
			for i, r := range table.rows {
				if !strings.HasPrefix(lines[i+2], "| "+r.label+" |") {
					t.Errorf("%s: table %s has %q where %q belongs", file, m[1], lines[i+2], r.label)
				}
			}
		}
	}
	for _, table := range tables {
		if !seen[table.name] {
			t.Errorf("no table of docs is marked as %s", table.name)
		}
	}
}

func TestText(t *testing.T) {
	m := parseBench(`goos: linux
BenchmarkSize/v11/N=1000/C=2-2         	    6255	     62300 ns/op	     44267 cpu-ns/op	   10176 B/op	      85 allocs/op
BenchmarkSize/v11/N=350000/C=2-2       	    6255	     62300 ns/op	     9267 cpu-ns/op	   1000176 B/op	      85 allocs/op
BenchmarkSize/v11/N=350000/C=2-2       	    6255	     62300 ns/op	     12267 cpu-ns/op	   1000175 B/op	      85 allocs/op
PASS`)
	got, err := table{column: "N", head: "N", rows: []row{{label: "time", of: "Size/v11/C=2", unit: "cpu-ns/op", in: micro}, {label: "bytes", of: "Size/v11/C=2", unit: "B/op"}}}.text(m)
	want := "| N | 1,000 | 350,000 |\n|---|---|---|\n| time | 44.3 | 9.27 |\n| bytes | 10,200 | 1,000,000 |\n"
	if got != want || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := (table{column: "N", rows: []row{{of: "other"}}}).text(m); err == nil {
		t.Error("a row without numbers is taken")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.md")
	for _, s := range []struct{ before, after string }{{"x\n" + mark("t") + "\n| old |\n|---|\n\ny\n", "x\n" + mark("t") + "\n" + want + "\ny\n"}} {
		if err := os.WriteFile(file, []byte(s.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := replace(dir, "t", want); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); string(b) != s.after || err != nil {
			t.Errorf("%s, %v", b, err)
		}
	}
}

func TestReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "growth.json")
	err := os.WriteFile(file, []byte(`{"scenario":"growth","runs":[{"label":"10 members","unit":"message","ops":100,"seconds":10,
		"usage":{"processes_watched":true,"cpu_seconds":0.45,"postgres":{"rows_written":450,"wal_bytes":292700}}}]}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	members, _ := find("members")
	got, err := members.text(m)
	if err != nil || !strings.Contains(got, "| members | 10 |\n") || !strings.Contains(got, "| rows written per message | 4.5 |\n") ||
		!strings.Contains(got, "(busy machine) | 4.5 |\n") {
		t.Errorf("%s, %v", got, err)
	}
}
