package chart

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var (
	metricInCode = regexp.MustCompile(`"(hanse_[a-z0-9_]+)"`)
	metricInText = regexp.MustCompile(`\bhanse_[a-z0-9_]+`)
)

// metrics finds the names of all metrics in the code.
func metrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{"pkg", "services"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range metricInCode.FindAllSubmatch(text, -1) {
				names[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) < 40 {
		t.Fatalf("found only %d metrics", len(names))
	}
	return names
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// known reports whether a name is that of a metric, or of a series of a histogram.
func known(names map[string]bool, name string) bool {
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && names[base] {
			return true
		}
	}
	return false
}

func TestMetricsThatAreUsedExist(t *testing.T) {
	names := metrics(t)
	for _, file := range []string{"deploy/prometheus/alerts.yaml", "deploy/grafana/hanse.json", "docs/operating.md", "charts/hanse/values.yaml"} {
		for _, name := range metricInText.FindAllString(read(t, file), -1) {
			if !known(names, name) {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	text := read(t, "docs/operating.md")
	for name := range metrics(t) {
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(text) {
			t.Errorf("docs/operating.md says nothing of %s", name)
		}
	}
}

func TestDashboardParses(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			ID      int                      `json:"id"`
			Type    string                   `json:"type"`
			Targets []struct{ Expr string }  `json:"targets"`
			GridPos struct{ X, Y, W, H int } `json:"gridPos"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(read(t, "deploy/grafana/hanse.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("panel %d is there twice", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Targets[0].Expr == "" || p.GridPos.X+p.GridPos.W > 24) {
			t.Errorf("panel %d shows nothing, or not in its place", p.ID)
		}
	}
}

// Each alert says where its runbook is, and it is there; and something shows that it fires (alerts_test.yaml).
func TestAlertsHaveRunbooks(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "deploy/prometheus/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for line := range strings.Lines(read(t, "docs/operating.md")) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			anchors[anchor(title)] = true
		}
	}
	tests := read(t, "deploy/prometheus/alerts_test.yaml")
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			where, ok := strings.CutPrefix(r.Annotations["runbook"], "docs/operating.md#")
			if !ok || !anchors[where] {
				t.Errorf("%s: there is no runbook at %q", r.Alert, r.Annotations["runbook"])
			}
			if seen[r.Alert] || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s: is there twice, or lacks something", r.Alert)
			}
			seen[r.Alert] = true
			if !strings.Contains(tests, "alertname: "+r.Alert+"\n        exp_alerts:\n          - exp_labels:") {
				t.Errorf("%s: no test shows that it fires", r.Alert)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("there are no alerts")
	}
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 -]`)

// anchor is how a heading is linked to.
func anchor(title string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
}
