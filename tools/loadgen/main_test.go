package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"

	"hanse/tools/loadgen/report"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient/mxtest"
)

func parse(t *testing.T, args ...string) (*cli, string) {
	t.Helper()
	var c cli
	p, err := kong.New(&c, kong.Vars{"lazy": scenario.LazyFilter})
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return &c, k.Selected().Name
}

func TestEveryCommandHasAScenario(t *testing.T) {
	var c cli
	p, err := kong.New(&c, kong.Vars{"lazy": scenario.LazyFilter})
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range p.Model.Children {
		if cmd.Name != "compare" && c.scenarios()[cmd.Name] == nil {
			t.Errorf("%s does nothing", cmd.Name)
		}
	}
}

func TestMeasureWritesAReport(t *testing.T) {
	srv := mxtest.New(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "r.json")
	c, name := parse(t, "--server", srv.URL, "--secret", mxtest.Secret, "--state", filepath.Join(dir, "s.json"),
		"--json", file, "--label", "x", "deliver", "--members", "3", "--rate", "100", "--duration", "200ms")
	if c.Deliver.Filter != scenario.LazyFilter {
		t.Errorf("filter %q", c.Deliver.Filter)
	}
	if err := c.measure(t.Context(), c.scenarios()[name]); err != nil {
		t.Fatal(err)
	}
	r, err := report.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if r.Scenario != "deliver" || r.Label != "x" || r.Verdict == nil || r.Verdict.Deliveries != 60 {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "s.json")); err != nil {
		t.Error(err)
	}
}
