package specapi

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// Option changes what RoundTripper and Proxy check.
type Option func(*watch)

// WithRequests also checks request bodies. Without it only answers are judged,
// since tests send wrong requests on purpose.
func WithRequests() Option { return func(w *watch) { w.requests = true } }

type watch struct {
	spec     *Spec
	next     http.RoundTripper
	report   func(error)
	requests bool
}

// RoundTripper validates every exchange that passes through next (nil: the
// default transport) and reports what is wrong; the exchange itself is not
// changed. report may be called concurrently.
func (s *Spec) RoundTripper(next http.RoundTripper, report func(error), opts ...Option) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	w := &watch{spec: s, next: next, report: report}
	for _, o := range opts {
		o(w)
	}
	return w
}

// RoundTrip implements http.RoundTripper.
func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.requests && req.Body != nil {
		raw, err := io.ReadAll(req.Body)
		if cerr := req.Body.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(raw))
		if err := w.spec.ValidateRequest(req, raw); err != nil {
			w.report(err)
		}
	}
	resp, err := w.next.RoundTrip(req)
	if err != nil || !judged(req.URL.EscapedPath()) || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	raw, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	// A body that broke off is handed on as far as it came, with its error: the
	// caller must see what a caller without this layer sees.
	resp.Body = io.NopCloser(&broken{r: bytes.NewReader(raw), err: err})
	if err == nil && resp.Header.Get("Content-Encoding") == "" {
		if verr := w.spec.Validate(req, resp.StatusCode, resp.Header, raw); verr != nil {
			w.report(verr)
		}
	}
	return resp, nil
}

type broken struct {
	r   *bytes.Reader
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF && b.err != nil {
		return n, b.err
	}
	return n, err
}

// Proxy is a reverse proxy to target that validates what passes: the form for
// clients in other languages and for other homeservers. transport carries the
// requests to target (nil: the default transport).
func (s *Spec) Proxy(target *url.URL, transport http.RoundTripper, report func(error), opts ...Option) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // request signatures and well-known depend on it
			r.SetXForwarded()
			r.Out.Header.Del("Accept-Encoding") // compressed bodies cannot be judged
		},
		Transport:     s.RoundTripper(transport, report, opts...),
		FlushInterval: -1,
		// The client sees why; the log need not hold each poll that was given up.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
}
