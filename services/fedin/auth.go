package fedin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/admission"
	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
)

const (
	// refusedFor is how long a key that could not be had is not asked for again.
	refusedFor = time.Minute
	// keyWaits bounds the requests that wait for keys, keyWaitsAddress those from one address, and keyWaitsClaim those from
	// there that claim to come from one server.
	keyWaits, keyWaitsAddress, keyWaitsClaim = 1024, 512, 64
	// verifyTime bounds that wait.
	verifyTime = 30 * time.Second
)

// place is a server, and the network from which it has spoken.
type place struct {
	server  id.Server
	network string
}

func placeOf(r *http.Request, server id.Server) place {
	return place{server, httpx.Network(httpx.ClientAddr(r))}
}

type keyName struct {
	server id.Server
	key    string
}

// request is a request of another server whose signature was verified.
type request struct {
	*http.Request
	// origin is the server that asks, server the local server name that it asks.
	origin, server id.Server
	// body is the JSON of the body; nil if there is none.
	body []byte
}

type handler func(w http.ResponseWriter, q *request) error

// param is a path parameter.
func (q *request) param(name string) string { return httpx.Param(q.Request, name) }

// decode decodes the body into v.
func (q *request) decode(v any) error {
	return decode(q.body, v)
}

// decode reads JSON of another server, with Matrix errors.
func decode(b []byte, v any) error {
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 {
		return merr.NotJSON("The request has no body")
	}
	if b[0] != '{' {
		return merr.BadJSON("The request body must be a JSON object")
	}
	err := canonjson.Decode(b, v)
	if e := badBody(err); e != nil {
		return e
	}
	if err != nil {
		return merr.BadJSON("The request body does not have the right form").WithCause(err)
	}
	return nil
}

// signed makes a handler of one that needs to know who asks (server-server API, "Request Authentication").
func (f *Fedin) signed(h handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := f.authenticate(r)
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

// authenticate reads and verifies a request. What it holds meanwhile is the sender's, whatever name the header has: the
// server that it names pays for what is proven only.
func (f *Fedin) authenticate(r *http.Request) (*request, error) {
	x, err := f.header(r)
	if err != nil {
		return nil, err
	}
	if _, ok := f.refused.Get(keyName{x.Origin, x.KeyID}); ok {
		return nil, errNoKey
	}
	from := placeOf(r, x.Origin)
	_, likely := f.known.Get(from)
	body, pending, err := httpx.ServerBody(r, string(x.Origin), likely)
	if err != nil {
		return nil, err
	}
	if err := f.verify(pending, r, x, body); err != nil {
		if pending.Err() != nil && r.Context().Err() == nil {
			return nil, merr.LimitExceeded(1000).WithCause(err) // the body had to make room
		}
		return nil, err
	}
	if err := httpx.Proven(r, string(x.Origin)); err != nil {
		return nil, err
	}
	f.known.Add(from, struct{}{})
	if err := f.destinations.Seen(r.Context(), x.Origin); err != nil {
		f.log.WarnContext(r.Context(), "server not noted as seen", "server", x.Origin, "err", err)
	}
	return &request{Request: r, origin: x.Origin, server: x.Destination, body: body}, nil
}

// errNoKey is a variable as it is the answer to strangers.
var errNoKey = merr.Unauthorized("The key of the request's signature is not available")

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

// verify checks the signature. If the key is neither in memory nor stored, the request waits for it; see waitForKey.
func (f *Fedin) verify(ctx context.Context, r *http.Request, x signing.XMatrix, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	atHand, err := f.keys.AtHand(ctx, keyring.Name{Server: x.Origin, KeyID: x.KeyID}, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	key := keyName{x.Origin, x.KeyID}
	if !atHand {
		if !f.worthAsking(x.Origin) {
			return errNoKey
		}
		waiting, leave, err := f.waitForKey(ctx, r, x.Origin)
		if err != nil {
			return err
		}
		ctx = waiting
		err = f.keys.VerifyRequest(ctx, x, r.Method, r.RequestURI, body)
		if slotErr := leave(); slotErr != nil {
			return slotErr
		}
		return f.verdict(key, err)
	}
	return f.verdict(key, f.keys.VerifyRequest(ctx, x, r.Method, r.RequestURI, body))
}

func newKeyWaits(reg prometheus.Registerer) *admission.Pool {
	return admission.New(admission.Config{Name: "key_waits", Registerer: reg,
		Limits: map[string]int64{"waits": keyWaits, "address": keyWaitsAddress, "claim": keyWaitsClaim}})
}

// waitForKey lets a request wait for a key. It gives its slot back meanwhile, and those of which there are too many end with
// the context: of one claim from one address, of one address, and of all, the one that has waited for the longest time.
// Servers whose keys never come so keep nobody out.
func (f *Fedin) waitForKey(ctx context.Context, r *http.Request, server id.Server) (_ context.Context, leave func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	from := placeOf(r, server)
	e := f.keyWaits.Enter(cancel, admission.Name{Kind: "waits"}, admission.Name{Kind: "address", Key: from.network},
		admission.Name{Kind: "claim", Key: from.network + " " + string(server)})
	if err := e.Take(1); err != nil {
		cancel()
		return nil, nil, merr.LimitExceeded(1000).WithCause(err)
	}
	resume := httpx.Waiting(r)
	return ctx, func() error {
		e.Release()
		cancel()
		return resume()
	}, nil
}

// verdict is what the answer of the keyring means for a request.
func (f *Fedin) verdict(key keyName, err error) error {
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
func (f *Fedin) worthAsking(server id.Server) bool {
	n, ok := f.madeUp.Get(server)
	return !ok || n.Load() < madeUpKeys
}
