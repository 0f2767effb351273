// Package httpx is the HTTP edge: a router for Matrix paths, strict decoding of JSON bodies, CORS,
// error answers, metrics, and a server with limits.
//
// The router is its own and not http.ServeMux because of three rules of the Matrix APIs: path
// parameters are percent-encoded and may contain "/" or be empty, an unknown endpoint is a 404 and
// an unknown method of a known one a 405 with M_UNRECOGNIZED (never a redirect), and every answer
// of the client API, errors included, carries the CORS headers.
//
// Handlers return an error; the router writes it (merr.WriteHTTP). A handler that has started its
// answer returns nil.
package httpx
