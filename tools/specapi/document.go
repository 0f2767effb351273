package specapi

import (
	"fmt"
	"slices"
	"strings"
)

// addDocument registers the operations of one OpenAPI document.
func (s *Spec) addDocument(name string, doc any) error {
	root, ok := doc.(map[string]any)
	if !ok {
		return fmt.Errorf("not an object")
	}
	base, err := basePath(root)
	if err != nil {
		return err
	}
	for path, item := range object(root["paths"]) {
		for method, op := range object(item) {
			o := object(op)
			if o["responses"] == nil {
				continue // parameters shared by the path's operations
			}
			// A template that ends in a space is the file's second operation at the
			// same path: inviting by third-party identifier, listening to all rooms.
			full := base + strings.TrimSuffix(path, " ")
			op := &operation{
				id:       strings.ToUpper(method) + " " + full,
				method:   strings.ToUpper(method),
				segments: strings.Split(strings.TrimPrefix(full, "/"), "/"),
				pointer:  scheme + name + "#/paths/" + escape(path) + "/" + escape(method),
				status:   map[string]*body{},
			}
			if rb := o["requestBody"]; rb != nil {
				if op.request, err = s.body(root, rb, op.pointer+"/requestBody"); err != nil {
					return fmt.Errorf("%s: %w", op.id, err)
				}
			}
			for status, resp := range object(o["responses"]) {
				b, err := s.body(root, resp, op.pointer+"/responses/"+escape(status))
				if err != nil {
					return fmt.Errorf("%s %s: %w", op.id, status, err)
				}
				op.status[status] = b
			}
			s.routes.add(op)
		}
	}
	return nil
}

// basePath is the default of the server variable of that name.
func basePath(root map[string]any) (string, error) {
	servers, _ := root["servers"].([]any)
	if len(servers) == 0 {
		return "", fmt.Errorf("no servers")
	}
	def, ok := object(object(object(servers[0])["variables"])["basePath"])["default"].(string)
	if !ok {
		return "", fmt.Errorf("no default basePath")
	}
	return strings.TrimSuffix(def, "/"), nil
}

// body reads a request body or response object at pointer, following a
// reference inside the document.
func (s *Spec) body(root map[string]any, v any, pointer string) (*body, error) {
	o := object(v)
	if ref, ok := o["$ref"].(string); ok {
		local, ok := strings.CutPrefix(ref, "#/")
		if !ok {
			return nil, fmt.Errorf("reference to another file: %s", ref)
		}
		var target any = root
		for tok := range strings.SplitSeq(local, "/") {
			target = object(target)[unescape(tok)]
		}
		if target == nil {
			return nil, fmt.Errorf("reference to nothing: %s", ref)
		}
		file, _, _ := strings.Cut(pointer, "#")
		return s.body(root, target, file+"#/"+local)
	}
	b := &body{}
	b.required, _ = o["required"].(bool)
	for media, m := range object(o["content"]) {
		b.media = append(b.media, media)
		if media == "application/json" && object(m)["schema"] != nil {
			b.schema = pointer + "/content/application~1json/schema"
		}
	}
	slices.Sort(b.media)
	return b, nil
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

var (
	pointerEscape   = strings.NewReplacer("~", "~0", "/", "~1", "%", "%25", "{", "%7B", "}", "%7D", "^", "%5E", " ", "%20", `"`, "%22")
	pointerUnescape = strings.NewReplacer("~1", "/", "~0", "~")
)

// escape makes a key a token of a JSON pointer in a URL fragment.
func escape(tok string) string   { return pointerEscape.Replace(tok) }
func unescape(tok string) string { return pointerUnescape.Replace(tok) }
