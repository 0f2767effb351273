package specapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Violation is one exchange that the specification does not allow.
type Violation struct {
	Method, Path string
	Status       int    // 0 for a request
	Operation    string // empty when the path is not documented
	Reason       string
	Body         string // the beginning of the offending body
}

func (v *Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "spec: %s %s", v.Method, v.Path)
	if v.Status != 0 {
		fmt.Fprintf(&b, " -> %d", v.Status)
	}
	fmt.Fprintf(&b, ": %s", v.Reason)
	if v.Body != "" {
		fmt.Fprintf(&b, " in %s", v.Body)
	}
	return b.String()
}

const bodyInError = 400 // bytes of a body that a Violation quotes

func violation(req *http.Request, status int, op *operation, body []byte, format string, args ...any) *Violation {
	v := &Violation{Method: req.Method, Path: req.URL.EscapedPath(), Status: status, Reason: fmt.Sprintf(format, args...)}
	if op != nil {
		v.Operation = op.id
	}
	if len(body) > bodyInError {
		v.Body = string(body[:bodyInError]) + "..."
	} else {
		v.Body = string(body)
	}
	return v
}

// Validate holds an answer against the specification. It returns nil or a
// *Violation; an error of another type means that the specification's data could
// not be used. req needs only Method and URL.
func (s *Spec) Validate(req *http.Request, status int, header http.Header, body []byte) error {
	path := req.URL.EscapedPath()
	if !judged(path) || req.Method == http.MethodOptions {
		return nil
	}
	method := req.Method
	if method == http.MethodHead {
		return nil
	}
	op, _ := s.routes.find(method, path)
	if op == nil {
		return s.undocumented(req, status, header, body)
	}
	s.count(op, status, errcode(status, body))
	doc, documented := op.status[strconv.Itoa(status)]
	switch {
	case status >= 400:
		return s.checkError(req, op, doc, status, header, body)
	case !documented:
		return violation(req, status, op, body, "status is not documented for %s", op.id)
	default:
		return s.checkBody(req, op, doc, status, header, body)
	}
}

// undocumented judges an answer at a path or method that the specification does
// not have: only a refusal can be right (Client-Server API, "Standard error
// response": M_UNRECOGNIZED), or whatever an authentication or rate-limit check
// before the routing says.
func (s *Spec) undocumented(req *http.Request, status int, header http.Header, body []byte) error {
	if status < 400 {
		return violation(req, status, nil, body, "path or method is not in the specification")
	}
	return s.checkError(req, nil, nil, status, header, body)
}

// checkError accepts the schema that is documented for the status or the
// standard error.
func (s *Spec) checkError(req *http.Request, op *operation, doc *body, status int, header http.Header, raw []byte) error {
	if strings.HasPrefix(req.URL.Path, "/.well-known/") {
		return nil // the answer of a web server that need not know Matrix
	}
	value, v := decode(req, op, status, header, raw)
	if v != nil {
		return v
	}
	if doc != nil && doc.schema != "" {
		sch, err := s.schema(doc.schema)
		if err != nil {
			return err
		}
		documented := sch.Validate(value)
		if documented == nil && (status == http.StatusUnauthorized || object(value)["errcode"] != nil) {
			return s.standardError(req, op, status, value, raw, true)
		}
		if object(value)["flows"] != nil || object(value)["session"] != nil {
			return violation(req, status, op, raw, "%s", schemaReason(documented))
		}
	}
	return s.standardError(req, op, status, value, raw, false)
}

// errcodePattern: "Errors are generally best expressed by their error code";
// M_ for the specification's, a reversed domain for others'.
var errcodePattern = regexp.MustCompile(`^(M_[A-Z0-9_]+|[A-Z0-9]+([._][A-Z0-9]+)+)$`)

const (
	errorSchema     = scheme + "api/client-server/definitions/errors/error.yaml"
	rateLimitSchema = scheme + "api/client-server/definitions/errors/rate_limited.yaml"
)

// standardError checks errcode and error. An interactive-authentication answer
// (uia) need not have them.
func (s *Spec) standardError(req *http.Request, op *operation, status int, value any, raw []byte, uia bool) error {
	obj := object(value)
	if uia && obj["flows"] != nil && obj["errcode"] == nil {
		return nil
	}
	location := errorSchema
	if status == http.StatusTooManyRequests {
		location = rateLimitSchema
	}
	sch, err := s.schema(location)
	if err != nil {
		return err
	}
	if err := sch.Validate(value); err != nil {
		return violation(req, status, op, raw, "not a standard error: %s", schemaReason(err))
	}
	code, _ := obj["errcode"].(string)
	if !errcodePattern.MatchString(code) {
		return violation(req, status, op, raw, "errcode %q is none", code)
	}
	if (code == "M_LIMIT_EXCEEDED") != (status == http.StatusTooManyRequests) {
		return violation(req, status, op, raw, "errcode %s with status %d", code, status)
	}
	if (code == "M_UNKNOWN_TOKEN" || code == "M_MISSING_TOKEN") && status != http.StatusUnauthorized {
		return violation(req, status, op, raw, "errcode %s needs status 401", code)
	}
	return nil
}

// checkBody holds a successful answer against its documented body.
func (s *Spec) checkBody(req *http.Request, op *operation, doc *body, status int, header http.Header, raw []byte) error {
	if len(doc.media) == 0 || status >= 300 {
		return nil
	}
	if doc.schema == "" {
		return nil // media: any content type is possible
	}
	ct, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if len(doc.media) > 1 && ct != "application/json" {
		return nil
	}
	value, v := decode(req, op, status, header, raw)
	if v != nil {
		return v
	}
	sch, err := s.schema(doc.schema)
	if err != nil {
		return err
	}
	if nullable[op.id] {
		value = withoutNulls(value)
	}
	if err := sch.Validate(value); err != nil {
		return violation(req, status, op, raw, "%s", schemaReason(err))
	}
	return nil
}

// nullable are the operations whose answers may have null for what is not set. The specification leaves such members
// out, Synapse sends null, and there are clients that demand it.
var nullable = map[string]bool{
	"GET /_matrix/client/v3/devices": true, "GET /_matrix/client/v3/devices/{deviceId}": true,
	"GET /_matrix/client/v3/rooms/{roomId}/joined_members": true,
}

func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if member == nil {
				delete(v, key)
			} else {
				v[key] = withoutNulls(member)
			}
		}
	case []any:
		for i, item := range v {
			v[i] = withoutNulls(item)
		}
	}
	return v
}

// decode parses a JSON body and checks its content type (Client-Server API, "API
// Standards": application/json; Server-Server API likewise). An answer of the
// well-known files may have any type.
func decode(req *http.Request, op *operation, status int, header http.Header, raw []byte) (any, *Violation) {
	ct, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if (err != nil || ct != "application/json") && !strings.HasPrefix(req.URL.Path, "/.well-known/") {
		return nil, violation(req, status, op, raw, "content type is %q", header.Get("Content-Type"))
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, violation(req, status, op, raw, "not JSON: %v", err)
	}
	return value, nil
}

// ValidateRequest holds a request's JSON body against the specification. Use it
// for requests that are meant to be right: what a server sends to another.
func (s *Spec) ValidateRequest(req *http.Request, raw []byte) error {
	path := req.URL.EscapedPath()
	if !judged(path) || req.Method == http.MethodOptions || req.Method == http.MethodHead {
		return nil
	}
	op, _ := s.routes.find(req.Method, path)
	if op == nil {
		return violation(req, 0, nil, raw, "path or method is not in the specification")
	}
	err := s.checkRequest(req, op, raw)
	for _, other := range op.also {
		if err == nil {
			break
		}
		if s.checkRequest(req, other, raw) == nil {
			err = nil
		}
	}
	return err
}

func (s *Spec) checkRequest(req *http.Request, op *operation, raw []byte) error {
	if op.request == nil || op.request.schema == "" {
		return nil
	}
	if len(raw) == 0 {
		if op.request.required {
			return violation(req, 0, op, nil, "a body is required")
		}
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return violation(req, 0, op, raw, "not JSON: %v", err)
	}
	sch, err := s.schema(op.request.schema)
	if err != nil {
		return err
	}
	if err := sch.Validate(value); err != nil {
		return violation(req, 0, op, raw, "%s", schemaReason(err))
	}
	return nil
}

// schemaReason reduces a validation error to its leaves: where, and what.
func schemaReason(err error) string {
	var ve *jsonschema.ValidationError
	if !errors.As(err, &ve) {
		return fmt.Sprint(err)
	}
	var leaves []string
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			out := e.BasicOutput()
			reason := "invalid"
			if out.Error != nil {
				reason = out.Error.String()
			}
			leaves = append(leaves, "/"+strings.Join(e.InstanceLocation, "/")+": "+reason)
		}
		for _, c := range e.Causes {
			walk(c)
		}
	}
	walk(ve)
	const most = 5
	if len(leaves) > most {
		leaves = append(leaves[:most], fmt.Sprintf("and %d more", len(leaves)-most))
	}
	return strings.Join(leaves, "; ")
}

func errcode(status int, body []byte) string {
	if status < 400 {
		return ""
	}
	var e struct {
		Errcode string `json:"errcode"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	return e.Errcode
}
