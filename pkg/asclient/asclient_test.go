package asclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"hanse/pkg/appservice"
)

func service(t *testing.T, h http.HandlerFunc) *appservice.Service {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &appservice.Service{ID: "irc", URL: srv.URL + "/base", HSToken: "secret"}
}

// Application service API, "Authorisation": the token goes in the header, and in no query.
func TestRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	s := service(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"x":1}`)
	})
	a, err := New(Config{Timeout: time.Minute}).Do(t.Context(), s, Request{Method: "PUT", Path: "/a/%23b", Query: url.Values{"q": {"ä"}}, Body: []byte(`{}`)})
	if err != nil || !a.OK() || a.Status != http.StatusCreated || string(a.Body) != `{"x":1}` {
		t.Fatalf("%d %s, %v", a.Status, a.Body, err)
	}
	if got.Method != "PUT" || got.RequestURI != "/base/a/%23b?q=%C3%A4" || got.Header.Get("Authorization") != "Bearer secret" || string(body) != "{}" {
		t.Errorf("%s %s, %v, %s", got.Method, got.RequestURI, got.Header, body)
	}
}

func TestWhatServicesDoWrong(t *testing.T) {
	elsewhere := service(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		check  func(Answer, error) bool
	}{
		"a redirect is an answer": {
			func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			},
			func(a Answer, err error) bool {
				return err == nil && a.Status == http.StatusTemporaryRedirect && !a.OK()
			},
		},
		"an endless answer is read up to the bound": {
			func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
						return
					}
				}
			},
			func(a Answer, err error) bool { return errors.Is(err, ErrTooLarge) && len(a.Body) == MaxAnswer },
		},
		"an answer that breaks off is an error": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "x")
			},
			func(_ Answer, err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := New(Config{Timeout: time.Minute}).Do(t.Context(), service(t, c.answer), Request{Method: "GET", Path: "/x"})
			if !c.check(a, err) {
				t.Errorf("%d, %d bytes, %v", a.Status, len(a.Body), err)
			}
		})
	}
}

// A service that does not answer is given up in time, and its URL is in no error.
func TestSilence(t *testing.T) {
	s := service(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := New(Config{}).Do(t.Context(), s, Request{Method: "GET", Path: "/users/@somebody", Timeout: 50 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "somebody") {
		t.Errorf("%v", err)
	}
	if _, err := New(Config{}).Do(t.Context(), &appservice.Service{ID: "bot"}, Request{Method: "GET", Path: "/"}); !errors.Is(err, ErrNoURL) {
		t.Errorf("%v", err)
	}
}
