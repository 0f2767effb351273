package report

import (
	"bytes"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
)

func sample(label string, cpu float64) *Report {
	r := &Report{
		Scenario: "send", Server: "http://x", Label: label, Started: time.Unix(1, 0).UTC(),
		Params: map[string]any{"senders": 4.0}, Unit: "send", Ops: 2000, Seconds: 10,
		Latencies: []measure.Latency{{Name: "send", Count: 2000, P50: 5, P90: 9, P99: 20, Max: 40}},
		Usage: &measure.Usage{Watched: true, CPU: cpu, CPUDuring: cpu / 2, Quiet: true,
			CPUByName: map[string]float64{"hanse": cpu},
			Postgres:  &measure.Postgres{RowsWritten: 8000, Commits: 200}},
		Verdict: account.New().Verdict(),
	}
	r.Add("deliveries per second", 100, "1/s")
	return r
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := sample("a", 4).Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2000 in 10.00 s", "200.0/s", "CPU until quiet per 1,000 sends", "2.00 s", "rows written per send", "EXACT", "senders=4"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestJSONAndCompare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	a, b := sample("a", 4), sample("b", 2)
	if err := a.WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Numbers(), a.Numbers()) || !reflect.DeepEqual(got.Params, a.Params) {
		t.Errorf("%+v\n%+v", got, a)
	}
	var out bytes.Buffer
	if err := Compare(&out, got, b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "0.50") || strings.Contains(out.String(), "differ") {
		t.Error(out.String())
	}
}

func TestRunsAreColumns(t *testing.T) {
	r := &Report{Scenario: "growth", Server: "http://x", Runs: []*Report{sample("10", 4), sample("100", 5)}}
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "rows written per send") || !strings.Contains(b.String(), "2.50") || r.Failed() {
		t.Error(b.String())
	}
	r.Runs[1].Errors = map[string]int{"M_UNKNOWN": 1}
	if !r.Failed() {
		t.Error("errors of a run are forgotten")
	}
}
