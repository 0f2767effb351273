package measure

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

func TestRatios(t *testing.T) {
	var scrapes atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := scrapes.Add(1)
		fmt.Fprintf(w, "# TYPE a_sum counter\na_sum{x=\"1} 2\"} %d\na_sum{x=\"2\"} %d 1700000000\na_summary 99\nb 1e2\nstill 5\n", 10*n, 20*n)
		fmt.Fprintf(w, "c %d\n", n)
	}))
	defer srv.Close()
	m := &Meter{Metrics: []string{srv.URL}}
	for name, text := range map[string]string{"a per c": "a_sum/c", "a per b": "a_sum/b", "missing": "none/c"} {
		r, err := ParseRatio(name, text)
		if err != nil {
			t.Fatal(err)
		}
		m.Ratios = append(m.Ratios, r)
	}
	s, err := m.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Ratios) != 2 || u.Ratios["a per c"] != 30 || u.Ratios["missing"] != 0 {
		t.Errorf("%v", u.Ratios)
	}
}

func TestBadRatio(t *testing.T) {
	for _, text := range []string{"", "a", "/b", "a/"} {
		if _, err := ParseRatio("x", text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestMetricsFail(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	m := &Meter{Metrics: []string{srv.URL}, Ratios: []Ratio{{"x", "a", "b"}}}
	if _, err := m.Start(t.Context()); err == nil {
		t.Error("an endpoint without metrics is not noticed")
	}
}
