// Package report holds what a scenario measured, prints it and compares two.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
)

// Report is the outcome of one scenario.
type Report struct {
	Scenario string         `json:"scenario"`
	Server   string         `json:"server"`
	Label    string         `json:"label,omitempty"`
	Started  time.Time      `json:"started"`
	Params   map[string]any `json:"params"`

	Unit        string         `json:"unit"` // what an operation is
	Ops         int64          `json:"ops"`
	Seconds     float64        `json:"seconds"`
	Errors      map[string]int `json:"errors,omitempty"` // by errcode or kind
	RateLimited int64          `json:"rate_limited"`

	Latencies []measure.Latency `json:"latencies,omitempty"`
	Usage     *measure.Usage    `json:"usage,omitempty"`
	Metrics   []Metric          `json:"metrics,omitempty"`
	Verdict   *account.Verdict  `json:"verdict,omitempty"`
	Runs      []*Report         `json:"runs,omitempty"` // of a scenario that repeats another
}

// Metric is a number that only some scenarios have.
type Metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// Add appends a metric.
func (r *Report) Add(name string, value float64, unit string) {
	r.Metrics = append(r.Metrics, Metric{Name: name, Value: value, Unit: unit})
}

// Failed tells whether the exactness of the books, or requests, failed.
func (r *Report) Failed() bool {
	if r.Verdict != nil && !r.Verdict.OK() || len(r.Errors) > 0 {
		return true
	}
	return slices.ContainsFunc(r.Runs, (*Report).Failed)
}

// Numbers are the report's results by name, for comparing.
func (r *Report) Numbers() map[string]float64 {
	n := map[string]float64{}
	r.numbers("", n)
	return n
}

func (r *Report) numbers(prefix string, n map[string]float64) {
	if r.Seconds > 0 && r.Ops > 0 {
		n[prefix+r.Unit+"s per second"] = float64(r.Ops) / r.Seconds
	}
	for _, l := range r.Latencies {
		for _, q := range []struct {
			name  string
			value float64
		}{{"mean", l.Mean}, {"p50", l.P50}, {"p90", l.P90}, {"p99", l.P99}, {"max", l.Max}} {
			n[prefix+l.Name+" "+q.name+" ms"] = q.value
		}
	}
	for _, m := range append(r.perOp(), r.Metrics...) {
		n[prefix+m.Name+" "+m.Unit] = m.Value
	}
	for _, run := range r.Runs {
		run.numbers(prefix+run.Label+": ", n)
	}
}

const mib = 1 << 20

// perOp are the costs that follow from usage.
func (r *Report) perOp() []Metric {
	u := r.Usage
	if u == nil {
		return nil
	}
	var out []Metric
	if u.Watched {
		if r.Ops > 0 {
			out = append(out,
				Metric{"CPU until quiet per 1,000 " + r.Unit + "s", u.CPU / float64(r.Ops) * 1000, "s"},
				Metric{"CPU while working per 1,000 " + r.Unit + "s", u.CPUDuring / float64(r.Ops) * 1000, "s"})
		}
		out = append(out,
			Metric{"memory before, RSS", float64(u.Before.RSS) / mib, "MiB"},
			Metric{"memory after, RSS", float64(u.After.RSS) / mib, "MiB"},
			Metric{"memory before, PSS", float64(u.Before.PSS) / mib, "MiB"},
			Metric{"memory after, PSS", float64(u.After.PSS) / mib, "MiB"})
	}
	if p := u.Postgres; p != nil && r.Ops > 0 {
		per := 1 / float64(r.Ops)
		out = append(out,
			Metric{"rows written per " + r.Unit, float64(p.RowsWritten) * per, ""},
			Metric{"rows read per " + r.Unit, float64(p.RowsRead) * per, ""},
			Metric{"commits per " + r.Unit, float64(p.Commits) * per, ""},
			Metric{"WAL per " + r.Unit, float64(p.WALBytes) * per, "B"})
	}
	for _, name := range slices.Sorted(maps.Keys(u.Ratios)) {
		out = append(out, Metric{name, u.Ratios[name], ""})
	}
	return out
}

// Text prints the report for people.
func (r *Report) Text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	title := r.Scenario
	if r.Label != "" {
		title += " (" + r.Label + ")"
	}
	fmt.Fprintf(tw, "%s at %s\n", title, r.Server)
	if len(r.Params) > 0 {
		var ps []string
		for _, k := range slices.Sorted(maps.Keys(r.Params)) {
			ps = append(ps, fmt.Sprintf("%s=%v", k, r.Params[k]))
		}
		fmt.Fprintf(tw, "  %s\n", strings.Join(ps, " "))
	}
	if len(r.Runs) > 0 {
		r.table(tw)
		return tw.Flush()
	}
	fmt.Fprintf(tw, "  %ss\t%d in %.2f s\t%.1f/s\n", r.Unit, r.Ops, r.Seconds, float64(r.Ops)/max(r.Seconds, 1e-9))
	r.latencies(tw)
	r.usage(tw)
	for _, m := range r.Metrics {
		fmt.Fprintf(tw, "  %s\t%s %s\n", m.Name, number(m.Value), m.Unit)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(tw, "  error %s\t%d\n", k, r.Errors[k])
	}
	if r.RateLimited > 0 {
		fmt.Fprintf(tw, "  rate limited (429)\t%d\tthe server's limits are part of this measurement\n", r.RateLimited)
	}
	r.verdict(tw)
	return tw.Flush()
}

func (r *Report) latencies(w io.Writer) {
	if len(r.Latencies) == 0 {
		return
	}
	fmt.Fprintf(w, "  latency, ms\tcount\tmean\tp50\tp90\tp99\tmax\n")
	for _, l := range r.Latencies {
		fmt.Fprintf(w, "  %s\t%d\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Count,
			number(l.Mean), number(l.P50), number(l.P90), number(l.P99), number(l.Max))
	}
}

func (r *Report) usage(w io.Writer) {
	u := r.Usage
	if u == nil {
		return
	}
	for _, m := range r.perOp() {
		fmt.Fprintf(w, "  %s\t%s %s\n", m.Name, number(m.Value), m.Unit)
	}
	if u.Watched {
		quiet := fmt.Sprintf("quiet %.1f s after the last answer", u.QuietAfter)
		if !u.Quiet {
			quiet = "NOT QUIET at the time limit"
		}
		fmt.Fprintf(w, "  CPU in all\t%.2f s\t%s; idle rate before %.3f cores\n", u.CPU, quiet, u.IdleRate)
		for _, name := range slices.Sorted(maps.Keys(u.CPUByName)) {
			fmt.Fprintf(w, "    %s\t%.2f s\n", name, u.CPUByName[name])
		}
	}
	fmt.Fprintf(w, "  CPU of the load generator\t%.2f s\n", u.ClientCPU)
}

func (r *Report) verdict(w io.Writer) {
	if r.Verdict == nil {
		return
	}
	word := "EXACT"
	if !r.Verdict.OK() {
		word = "WRONG"
	}
	fmt.Fprintf(w, "  books: %s\t%s\n", word, r.Verdict.Summary())
	if err := r.Verdict.Err(); err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(w, "    %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// table prints repeated runs as columns side by side.
func (r *Report) table(w io.Writer) {
	names := map[string]bool{}
	runs := make([]map[string]float64, len(r.Runs))
	head := []string{""}
	for i, run := range r.Runs {
		runs[i] = run.Numbers()
		head = append(head, run.Label)
		for k := range runs[i] {
			names[k] = true
		}
	}
	fmt.Fprintf(w, "  %s\n", strings.Join(head, "\t"))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row := []string{name}
		for _, n := range runs {
			v, ok := n[name]
			if !ok {
				row = append(row, "-")
				continue
			}
			row = append(row, number(v))
		}
		fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
	}
	for _, run := range r.Runs {
		for _, k := range slices.Sorted(maps.Keys(run.Errors)) {
			fmt.Fprintf(w, "  %s: error %s\t%d\n", run.Label, k, run.Errors[k])
		}
		if run.Verdict != nil {
			fmt.Fprintf(w, "  %s:\n", run.Label)
			run.verdict(w)
		}
	}
}

// number prints about three significant digits.
func number(v float64) string {
	switch a := max(v, -v); {
	case a == 0:
		return "0"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// WriteJSON writes the report to a file, or to standard output for "-".
func (r *Report) WriteJSON(file string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	if file == "-" {
		_, err = os.Stdout.Write(raw)
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

// Read reads a report that WriteJSON wrote.
func Read(file string) (*Report, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Scenario == "" {
		return nil, fmt.Errorf("%s: not a report", file)
	}
	return r, nil
}
