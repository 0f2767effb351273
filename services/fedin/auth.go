package fedin

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
)

const (
	// refusedFor is how long a key that could not be had is not asked for again.
	refusedFor = time.Minute
	// unknownAtOnce bounds the requests of servers that were not verified lately that wait for keys.
	unknownAtOnce = 64
	// verifyAtOnce and verifyWaiting bound the requests of one server that wait for keys.
	verifyAtOnce, verifyWaiting = 4, 256
	// verifyTime bounds that wait.
	verifyTime = 30 * time.Second
	// maxBodies and maxStrangerBodies bound the request bodies in memory, in bytes.
	maxBodies, maxStrangerBodies = 256 << 20, 64 << 20
)

type keyName struct {
	server id.Server
	key    string
}

// request is a request of another server whose signature was verified.
type request struct {
	*http.Request
	// origin is the server that asks, server the one of our names that it asks.
	origin, server id.Server
	// body is the JSON of the body; nil if there is none.
	body []byte
}

type handler func(w http.ResponseWriter, q *request) error

// param is a path parameter.
func (q *request) param(name string) string { return httpx.Param(q.Request, name) }

// decode decodes the body into v.
func (q *request) decode(v any) error {
	if len(q.body) == 0 {
		return merr.NotJSON("The request has no body")
	}
	if q.body[0] != '{' {
		return merr.BadJSON("The request body must be a JSON object")
	}
	return httpx.Unmarshal(q.body, v)
}

// signed makes a handler of one that needs to know who asks (server-server API, "Request Authentication").
func (f *Fedin) signed(h handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, release, err := f.authenticate(r)
		defer release()
		if err != nil {
			f.metrics.requests.WithLabelValues(refusal(err)).Inc()
			return err
		}
		f.metrics.requests.WithLabelValues("verified").Inc()
		trace.SpanFromContext(r.Context()).SetAttributes(attribute.String("matrix.origin", string(q.origin)))
		return h(w, q)
	}
}

func refusal(err error) string {
	switch {
	case merr.HasCode(err, merr.CodeUnauthorized):
		return "unauthorized"
	case merr.HasCode(err, merr.CodeForbidden):
		return "forbidden"
	case merr.HasCode(err, merr.CodeLimitExceeded):
		return "limited"
	}
	return "failed"
}

// authenticate reads and verifies a request. release, which is never nil, gives back what it took.
func (f *Fedin) authenticate(r *http.Request) (q *request, release func(), err error) {
	release = func() {}
	x, err := f.header(r)
	if err != nil {
		return nil, release, err
	}
	if _, ok := f.refused.Get(keyName{x.Origin, x.KeyID}); ok {
		return nil, release, errNoKey
	}
	if release, err = f.memory(r, x.Origin); err != nil {
		return nil, func() {}, err
	}
	body, err := httpx.Body(r)
	if err != nil {
		return nil, release, err
	}
	if err := f.verify(r, x, body); err != nil {
		return nil, release, err
	}
	f.known.Add(x.Origin, struct{}{})
	if err := f.destinations.Seen(r.Context(), x.Origin); err != nil {
		f.log.WarnContext(r.Context(), "server not noted as seen", "server", x.Origin, "err", err)
	}
	return &request{Request: r, origin: x.Origin, server: x.Destination, body: body}, release, nil
}

// errNoKey is a variable as it is the answer to strangers.
var errNoKey = merr.Unauthorized("The key of the request's signature is not available")

// memory waits until there is room for the body, until the request is answered. Servers that were not verified lately
// share a small part.
func (f *Fedin) memory(r *http.Request, origin id.Server) (release func(), err error) {
	size := r.ContentLength
	if size < 0 || size > maxTransaction {
		size = maxTransaction
	}
	budget := f.bodies
	if _, ok := f.known.Get(origin); !ok {
		budget = f.strangerBodies
	}
	ctx, cancel := context.WithTimeout(r.Context(), verifyTime)
	defer cancel()
	if err := budget.Acquire(ctx, size); err != nil {
		return nil, merr.LimitExceeded(5000).WithCause(err)
	}
	return func() { budget.Release(size) }, nil
}

// header reads the X-Matrix header. The errors are those of Synapse.
func (f *Fedin) header(r *http.Request) (signing.XMatrix, error) {
	var x signing.XMatrix
	text := ""
	for _, h := range r.Header.Values("Authorization") {
		// A request may be signed by several keys; the first one that we know how to read counts.
		if scheme, _, _ := strings.Cut(h, " "); strings.EqualFold(scheme, "X-Matrix") {
			text = h
			break
		}
	}
	if text == "" {
		return x, merr.Unauthorized("Missing Authorization headers")
	}
	x, err := signing.ParseXMatrix(text)
	if err != nil {
		return x, merr.Unauthorized("Malformed Authorization header").WithStatus(http.StatusBadRequest).WithCause(err)
	}
	switch {
	case x.Destination == "":
		x.Destination = f.servers.ForHost(r.Host)
	case !f.servers.IsLocal(x.Destination):
		return x, merr.Unauthorized("Destination mismatch in auth header")
	}
	if f.servers.IsLocal(x.Origin) {
		return x, merr.Forbidden("The request claims to come from this server")
	}
	return x, nil
}

// verify checks the signature, with bounds on who waits for keys.
func (f *Fedin) verify(r *http.Request, x signing.XMatrix, body []byte) error {
	ctx, cancel := context.WithTimeout(r.Context(), verifyTime)
	defer cancel()
	leave, err := f.gates.enter(ctx, "verify", x.Origin, verifyAtOnce, verifyWaiting)
	if err != nil {
		return err
	}
	defer leave()
	key := keyName{x.Origin, x.KeyID}
	if _, ok := f.refused.Get(key); ok { // found out while we waited
		return errNoKey
	}
	if _, ok := f.known.Get(x.Origin); !ok {
		select {
		case f.unknown <- struct{}{}:
			defer func() { <-f.unknown }()
		case <-ctx.Done():
			return merr.LimitExceeded(5000).WithCause(ctx.Err())
		}
	}
	if err := f.worthAsking(ctx, key); err != nil {
		return err
	}
	err = f.keys.VerifyRequest(ctx, x, r.Method, r.RequestURI, body)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrNoKey):
		f.noKey(key)
		return errNoKey.WithCause(err)
	case errors.Is(err, signing.ErrSignature):
		return merr.Unauthorized("The request's signature does not verify").WithCause(err)
	}
	if e := badBody(err); e != nil {
		return e
	}
	return merr.Unavailable("The request's signature cannot be verified now").WithCause(err)
}

// madeUpKeys is how many keys of a server may turn out not to exist before, for a while, only those count that are stored.
const madeUpKeys = 5

// noKey remembers that a key could not be had.
func (f *Fedin) noKey(key keyName) {
	f.refused.Add(key, struct{}{})
	n, ok := f.madeUp.Get(key.server)
	if !ok {
		n = new(atomic.Int32)
		f.madeUp.Add(key.server, n)
	}
	n.Add(1)
}

// worthAsking keeps who makes up names of keys from making us ask a server for each of them.
func (f *Fedin) worthAsking(ctx context.Context, key keyName) error {
	if n, ok := f.madeUp.Get(key.server); !ok || n.Load() < madeUpKeys {
		return nil
	}
	name := keyring.Name{Server: key.server, KeyID: key.key}
	stored, err := f.keyStore.Keys(ctx, []keyring.Name{name})
	if err != nil {
		return err
	}
	if !stored[name].ValidAt(time.Now().UnixMilli()) {
		return errNoKey
	}
	return nil
}
