package specapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var loadOnce = sync.OnceValues(func() (*Spec, error) { return Load("") })

func load(t testing.TB) *Spec {
	t.Helper()
	s, err := loadOnce()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// loadData is load for tests that need the specification's files themselves.
func loadData(t testing.TB) *Spec {
	t.Helper()
	s := load(t)
	if s.src.fsys == nil {
		t.Skip(ErrNoData)
	}
	return s
}

func TestEverySchemaCompiles(t *testing.T) {
	s := load(t)
	start := time.Now()
	if err := s.CompileAll(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations in %v", len(s.Operations()), time.Since(start))
	if n := len(s.Operations()); n < 200 {
		t.Errorf("only %d operations found", n)
	}
}

// The specification's own examples must satisfy its schemas as this package
// reads them.
func TestExamplesOfTheSpecificationAreValid(t *testing.T) {
	s := loadData(t)
	wrong := map[string]string{}
	checked := 0
	for _, ops := range s.routes.byMethod {
		for _, op := range ops {
			file, pointer, _ := strings.Cut(strings.TrimPrefix(op.pointer, scheme), "#")
			raw := rawDocument(t, s, file)
			o := object(at(raw, pointer))
			for status, resp := range object(o["responses"]) {
				code, err := strconv.Atoi(status)
				if err != nil {
					t.Fatalf("%s: status %q", op.id, status)
				}
				media := object(object(object(resp)["content"])["application/json"])
				for name, ex := range object(media["examples"]) {
					value := object(resolve(t, s, file, object(ex)["value"]))
					if value == nil {
						continue
					}
					js, err := json.Marshal(value)
					if err != nil {
						t.Fatal(err)
					}
					req := &http.Request{Method: op.method, URL: exampleURL(op)}
					h := http.Header{"Content-Type": {"application/json"}}
					checked++
					if err := s.Validate(req, code, h, js); err != nil {
						wrong[op.id+" "+status+" "+name] = err.Error()
					}
				}
			}
		}
	}
	t.Logf("%d examples", checked)
	for k, v := range wrong {
		t.Errorf("%s: %s", k, v)
	}
}

func rawDocument(t *testing.T, s *Spec, name string) any {
	t.Helper()
	f, err := s.src.fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, st.Size())
	if _, err := f.Read(raw); err != nil {
		t.Fatal(err)
	}
	doc, err := decodeYAML(raw)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return doc
}

func at(doc any, pointer string) any {
	p, err := url.PathUnescape(pointer)
	if err != nil {
		return nil
	}
	for tok := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		doc = object(doc)[unescape(tok)]
	}
	return doc
}

// resolve replaces references inside an example by what they name.
func resolve(t *testing.T, s *Spec, file string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		if ref, ok := v["$ref"].(string); ok && !strings.HasPrefix(ref, "#") {
			ref = strings.TrimPrefix(ref, "./")
			target := path.Join(path.Dir(file), ref)
			got := resolve(t, s, target, rawDocument(t, s, target))
			if _, ok := got.(map[string]any); !ok {
				return got
			}
			maps.Copy(out, object(got))
		}
		for k, e := range v {
			if k != "$ref" {
				out[k] = resolve(t, s, file, e)
			}
		}
		return out
	case []any:
		for i, e := range v {
			v[i] = resolve(t, s, file, e)
		}
		return v
	default:
		return v
	}
}

func exampleURL(op *operation) *url.URL {
	segs := make([]string, len(op.segments))
	for i, seg := range op.segments {
		if isParam(seg) {
			seg = "x"
		}
		segs[i] = seg
	}
	return &url.URL{Scheme: "http", Host: "localhost", Path: "/" + strings.Join(segs, "/")}
}
