package specapi

import (
	"net/url"
	"slices"
	"strings"
)

// operation is one documented (method, path).
type operation struct {
	id       string // "GET /_matrix/client/v3/sync"
	method   string
	segments []string // template's segments; a parameter is "{name}"
	pointer  string   // location of the operation object: file#/paths/...
	request  *body
	status   map[string]*body // by documented status
	also     []*operation     // others with the same method and path
}

// body is a documented JSON body.
type body struct {
	schema   string // location of the schema; empty when only media other than JSON is documented
	required bool
	media    []string
}

// routes are all operations, by method, the more literal template first.
type routes struct{ byMethod map[string][]*operation }

func (r *routes) add(op *operation) {
	if r.byMethod == nil {
		r.byMethod = map[string][]*operation{}
	}
	for _, o := range r.byMethod[op.method] {
		if o.id == op.id {
			o.also = append(o.also, op)
			return
		}
	}
	r.byMethod[op.method] = append(r.byMethod[op.method], op)
}

func (r *routes) sort() {
	for _, ops := range r.byMethod {
		slices.SortStableFunc(ops, func(a, b *operation) int {
			return strings.Compare(rank(a.segments), rank(b.segments))
		})
	}
}

// rank orders templates so that a literal segment goes before a parameter.
func rank(segments []string) string {
	var b strings.Builder
	for _, s := range segments {
		if isParam(s) {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

func isParam(s string) bool { return strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") }

// find returns the operation for an escaped path and the values of its path
// parameters, or nil.
func (r *routes) find(method, escaped string) (*operation, map[string]string) {
	for _, p := range [...]string{escaped, stableAlias(escaped)} {
		segs := strings.Split(strings.TrimPrefix(p, "/"), "/")
		for _, op := range r.byMethod[method] {
			if params, ok := match(op.segments, segs); ok {
				return op, params
			}
		}
	}
	return nil, nil
}

func match(tmpl, segs []string) (map[string]string, bool) {
	n := len(tmpl)
	// "The state key. When empty, the trailing slash on this endpoint is
	// optional" (GET /rooms/{roomId}/state/{eventType}/{stateKey}).
	if len(segs) == n-1 && tmpl[n-1] == "{stateKey}" {
		segs = append(slices.Clone(segs), "")
	}
	if len(segs) != n {
		return nil, false
	}
	var params map[string]string
	for i, t := range tmpl {
		if !isParam(t) {
			if t != segs[i] {
				return nil, false
			}
			continue
		}
		val, err := url.PathUnescape(segs[i])
		if err != nil || (val == "" && t != "{stateKey}") {
			return nil, false
		}
		if params == nil {
			params = map[string]string{}
		}
		params[t[1:len(t)-1]] = val
	}
	return params, true
}

// stableAlias maps the r0 prefixes of before version 1.1 to v3, and the v1 of
// the old media API likewise, as homeservers serve them.
func stableAlias(p string) string {
	for _, a := range [...][2]string{
		{"/_matrix/client/r0/", "/_matrix/client/v3/"},
		{"/_matrix/media/r0/", "/_matrix/media/v3/"},
		{"/_matrix/media/v1/", "/_matrix/media/v3/"},
	} {
		if rest, ok := strings.CutPrefix(p, a[0]); ok {
			return a[1] + rest
		}
	}
	return p
}

// judged tells whether the specification has a say about a path.
func judged(p string) bool {
	if strings.HasPrefix(p, "/.well-known/matrix/") {
		return true
	}
	return strings.HasPrefix(p, "/_matrix/") && !strings.Contains(p, "/unstable/")
}
