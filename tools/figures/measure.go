package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"hanse/tools/loadgen/report"
)

// measured has the numbers of what was measured, by unit.
type measured map[string]map[string]float64

// least keeps the smaller number.
func (m measured) least(name, unit string, v float64) {
	if m[name] == nil {
		m[name] = make(map[string]float64)
	}
	if was, ok := m[name][unit]; !ok || v < was {
		m[name][unit] = v
	}
}

// bench runs the benchmarks of a table.
func (o *options) bench(t table) (measured, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-timeout", "0", "-benchmem", "-bench", t.bench, "-benchtime", t.benchtime(o.Benchtime),
		"-count", strconv.Itoa(o.Count), ".")
	cmd.Dir = filepath.Join(o.Root, t.dir)
	cmd.Env = append(os.Environ(), fmt.Sprintf("HANSE_SIZE=%d", o.Size))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	return parseBench(out.String()), nil
}

var (
	benchLine  = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)
	benchValue = regexp.MustCompile(`([0-9.e+-]+) (\S+)`)
)

// parseBench reads the output of go test. Of several runs the least number counts.
func parseBench(out string) measured {
	m := measured{}
	for _, line := range benchLine.FindAllStringSubmatch(out, -1) {
		for _, v := range benchValue.FindAllStringSubmatch(line[2], -1) {
			if x, err := strconv.ParseFloat(v[1], 64); err == nil {
				m.least(line[1], v[2], x)
			}
		}
	}
	return m
}

// readReport reads a report of loadgen with several runs. A run's name is its label, in which the number comes first.
func readReport(file string) (measured, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r report.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m := measured{}
	for _, run := range r.Runs {
		n, what, _ := strings.Cut(run.Label, " ")
		for unit, v := range run.Numbers() {
			m.least(what+"="+n, strings.TrimSpace(unit), v)
		}
	}
	return m, nil
}
