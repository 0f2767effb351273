package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// table is one of docs: its columns are the values of one part of the measured names, as N in Size/v11/N=1000/C=2.
type table struct {
	name   string
	dir    string // of the benchmarks
	bench  string // which of them
	times  string // operations of each run, if all must have as many
	report string // file of loadgen's, instead of benchmarks

	column string
	head   string // before the columns' names
	rows   []row
}

// row is a number of what is measured in each column: what of a name is left without the column's part.
type row struct {
	label string
	of    string
	unit  string
	in    float64 // of the unit in one of the table's
}

const (
	micro = 1e3 // of nanoseconds
	milli = 1e6
	mega  = 1e6 // of bytes
)

func find(name string) (table, bool) {
	for _, t := range tables {
		if t.name == name {
			return t, true
		}
	}
	return table{}, false
}

func (t table) benchtime(otherwise string) string {
	if t.times != "" {
		return t.times
	}
	return otherwise
}

// split takes the value of the column out of a name.
func (t table) split(name string) (rest string, column int, ok bool) {
	var left []string
	for part := range strings.SplitSeq(name, "/") {
		if v, found := strings.CutPrefix(part, t.column+"="); found {
			n, err := strconv.Atoi(v)
			if err != nil {
				return "", 0, false
			}
			column, ok = n, true
			continue
		}
		left = append(left, part)
	}
	return strings.Join(left, "/"), column, ok
}

// text is the table in Markdown.
func (t table) text(m measured) (string, error) {
	cells := map[string]map[int]map[string]float64{}
	var columns []int
	for name, units := range m {
		rest, column, ok := t.split(name)
		if !ok {
			continue
		}
		if cells[rest] == nil {
			cells[rest] = map[int]map[string]float64{}
		}
		cells[rest][column] = units
		if !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
	}
	if len(columns) == 0 {
		return "", errors.New("nothing was measured")
	}
	slices.Sort(columns)
	var b strings.Builder
	b.WriteString("| " + t.head)
	for _, c := range columns {
		b.WriteString(" | " + grouped(strconv.Itoa(c)))
	}
	b.WriteString(" |\n|" + strings.Repeat("---|", len(columns)+1) + "\n")
	for _, r := range t.rows {
		b.WriteString("| " + r.label)
		for _, c := range columns {
			v, ok := cells[r.of][c][r.unit]
			if !ok {
				return "", fmt.Errorf("%s has no %s at %d", r.of, r.unit, c)
			}
			b.WriteString(" | " + figure(v/max(r.in, 1)))
		}
		b.WriteString(" |\n")
	}
	return b.String(), nil
}

// figure has three digits that count.
func figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	if v >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(v))-2)
		v = math.Round(v/unit) * unit
	}
	s := strconv.FormatFloat(v, 'f', min(digits, 2), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return grouped(s)
}

// grouped puts commas between thousands.
func grouped(s string) string {
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return whole
}
