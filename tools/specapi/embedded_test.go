package specapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"maps"
	"os"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write the embedded data anew from the specification's")

func TestEmbeddedDataIsUpToDate(t *testing.T) {
	s := loadData(t)
	if err := s.CompileAll(); err != nil { // finds all that is referred to
		t.Fatal(err)
	}
	var out bytes.Buffer
	for i, name := range slices.Sorted(maps.Keys(s.src.docs)) {
		raw, err := fs.ReadFile(s.src.fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := decodeYAML(raw)
		if err != nil {
			t.Fatal(err)
		}
		strip(doc)
		js, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(map[bool]string{true: "{\n", false: ",\n"}[i == 0])
		out.WriteString(`"` + name + `":`)
		out.Write(js)
	}
	out.WriteString("\n}\n")
	if *update {
		if err := os.WriteFile("openapi/matrix-v1.19.json", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(out.Bytes(), embedded) {
		t.Error("embedded data differs from the specification's: run with -update")
	}
}

// strip removes what no validation needs.
func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"description", "summary", "x-addedInMatrixVersion", "x-changedInMatrixVersion"} {
			if _, ok := v[k].(string); ok {
				delete(v, k) // a property of that name is an object
			}
		}
		delete(v, "x-changedInMatrixVersion")
		if isSchema(v) || v["in"] != nil || v["schema"] != nil {
			delete(v, "example")
			delete(v, "examples")
		}
		for _, e := range v {
			strip(e)
		}
	case []any:
		for _, e := range v {
			strip(e)
		}
	}
}

func TestEmbeddedDataValidates(t *testing.T) {
	s, err := loadEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CompileAll(); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Operations()); n < 200 {
		t.Errorf("only %d operations", n)
	}
}

func TestEmbeddedDataKnowsEveryOperation(t *testing.T) {
	full, small := loadData(t), must(loadEmbedded())
	if !slices.Equal(full.Operations(), small.Operations()) {
		t.Error("operations differ")
	}
}

func must(s *Spec, err error) *Spec {
	if err != nil {
		panic(err)
	}
	return s
}
