package httpx

import (
	"io"
	"net/http"
)

// prompt sends each answer when it is made. By itself net/http reads what is left of the request's body first, up to 256 KiB,
// so that a sender who announces a body and does not send it never gets an answer, and keeps the connection. Here such an
// answer closes the connection, and what is left is not read. (HTTP/2 ends the stream by itself.)
func prompt(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody {
			h.ServeHTTP(w, r)
			return
		}
		body := &watchedBody{ReadCloser: r.Body}
		r.Body = body
		h.ServeHTTP(&promptWriter{ResponseWriter: w, body: body}, r)
		if body.ended {
			return
		}
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.linger.Store(true)
		}
		w.Header().Set("Connection", "close") // of no effect once the headers are written
		// What net/http does after the handler reads nothing.
		_ = http.NewResponseController(w).SetReadDeadline(longAgo)
	})
}

// watchedBody knows whether the body was read to its end.
type watchedBody struct {
	io.ReadCloser
	ended bool
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended = true
	}
	return n, err
}

// promptWriter says that the connection is closed behind the answer if the body was not read.
type promptWriter struct {
	http.ResponseWriter
	body *watchedBody
}

// WriteHeader implements http.ResponseWriter.
func (w *promptWriter) WriteHeader(status int) {
	if !w.body.ended && status >= http.StatusOK {
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *promptWriter) Write(b []byte) (int, error) {
	if !w.body.ended {
		w.Header().Set("Connection", "close") // of no effect once the headers are written
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *promptWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
