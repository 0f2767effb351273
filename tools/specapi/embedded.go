package specapi

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// embedded is the specification's API data without descriptions and examples:
// what Load falls back to, so that answers are validated wherever the tests run.
// TestEmbeddedDataIsUpToDate writes it: go test ./specapi -run Embedded -update.
//
//go:embed openapi/matrix-v1.19.json
var embedded []byte

// loadEmbedded builds a Spec from the embedded data.
func loadEmbedded() (*Spec, error) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(embedded))
	if err != nil {
		return nil, fmt.Errorf("specapi: embedded data: %w", err)
	}
	src := newSource(nil)
	src.docs = object(v)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(src.docs)) {
		src.docs[name] = prepare(src.docs[name])
		for _, folder := range apiFolders {
			rest, ok := strings.CutPrefix(name, folder+"/")
			if ok && !strings.Contains(rest, "/") {
				names = append(names, name)
			}
		}
	}
	return build(src, names)
}
