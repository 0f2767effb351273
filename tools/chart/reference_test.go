package chart

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	yamlnode "go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the reference into charts/hanse/README.md")

const (
	referenceBegin = "<!-- reference: written by 'go test -run TestReference -update' in tools/chart -->\n"
	referenceEnd   = "<!-- end of reference -->\n"
)

// The table of values in the chart's README is what values.yaml says, and each value says what it is.
func TestReference(t *testing.T) {
	var doc yamlnode.Node
	if err := yamlnode.Unmarshal([]byte(read(t, "charts/hanse/values.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "charts/hanse/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	r := reference{t: t, definitions: schema["definitions"].(map[string]any)}
	r.mapping("", doc.Content[0], schema)
	table := referenceBegin + "\n| value | default | meaning |\n|---|---|---|\n" + r.out.String() + "\n" + referenceEnd
	readme := read(t, "charts/hanse/README.md")
	before, rest, ok := strings.Cut(readme, referenceBegin)
	_, after, end := strings.Cut(rest, referenceEnd)
	if !ok || !end {
		t.Fatal("charts/hanse/README.md has no place for the reference")
	}
	if want := before + table + after; want != readme {
		if !*update {
			t.Fatalf("the reference in charts/hanse/README.md is not that of values.yaml; run %s", referenceBegin)
		}
		if err := os.WriteFile(filepath.Join(root, "charts/hanse/README.md"), []byte(want), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
	}
}

type reference struct {
	t           *testing.T
	definitions map[string]any
	out         strings.Builder
}

// mapping writes a line for each value below a path. It goes down where the schema says what there may be.
func (r *reference) mapping(path string, node *yamlnode.Node, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		full := strings.TrimPrefix(path+"."+key.Value, ".")
		below := r.resolve(properties[key.Value])
		delete(properties, key.Value)
		if value.Kind == yamlnode.MappingNode && len(value.Content) > 0 && below["properties"] != nil && !r.whole(full) {
			r.mapping(full, value, below)
			continue
		}
		meaning := comment(key, value)
		if meaning == "" {
			r.t.Errorf("values.yaml says nothing of %s", full)
		}
		fmt.Fprintf(&r.out, "| `%s` | %s | %s |\n", full, shown(r.t, value), meaning)
	}
	for key := range properties {
		if key != "global" {
			r.t.Errorf("values.schema.json has %s.%s, values.yaml has not", path, key)
		}
	}
}

// whole reports whether a mapping is one value: Kubernetes' own, which is set as it is there.
func (r *reference) whole(path string) bool {
	for _, name := range []string{"resources", "strategy", "behavior", "livenessProbe", "readinessProbe"} {
		if strings.HasSuffix(path, "."+name) {
			return true
		}
	}
	return false
}

func (r *reference) resolve(schema any) map[string]any {
	s, _ := schema.(map[string]any)
	if name, ok := s["$ref"].(string); ok {
		return r.resolve(r.definitions[strings.TrimPrefix(name, "#/definitions/")])
	}
	if all, ok := s["allOf"].([]any); ok {
		return r.resolve(all[0]) // the others require more, and allow nothing
	}
	copied := map[string]any{}
	for k, v := range s {
		copied[k] = v
	}
	if properties, ok := s["properties"].(map[string]any); ok {
		own := map[string]any{}
		for k, v := range properties {
			own[k] = v
		}
		copied["properties"] = own
	}
	return copied
}

// comment is what stands above a value or behind it.
func comment(key, value *yamlnode.Node) string {
	text := key.HeadComment
	for _, more := range []string{key.LineComment, value.LineComment} {
		if more != "" {
			text = more
		}
	}
	if i := strings.LastIndex(text, "\n\n"); i >= 0 {
		text = text[i+2:]
	}
	var words []string
	for line := range strings.SplitSeq(text, "\n") {
		words = append(words, strings.TrimSpace(strings.TrimPrefix(line, "#")))
	}
	return strings.ReplaceAll(strings.TrimSpace(strings.Join(words, " ")), "|", `\|`)
}

// shown is a default as the table has it; long ones are in values.yaml.
func shown(t *testing.T, value *yamlnode.Node) string {
	t.Helper()
	var v any
	if err := value.Decode(&v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 60 {
		return "see values.yaml"
	}
	return "`" + strings.ReplaceAll(string(text), "|", `\|`) + "`"
}
