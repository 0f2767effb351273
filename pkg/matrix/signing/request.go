package signing

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// XMatrix is an Authorization header of the scheme X-Matrix (server-server API, section "Request Authentication").
type XMatrix struct {
	Origin, Destination id.Server
	KeyID, Sig          string
}

// maxParameters is how many parameters a header may have, unknown ones included.
const maxParameters = 16

var errXMatrix = errors.New("not an X-Matrix authorization header")

// ParseXMatrix parses the header. Names of parameters are case-insensitive, values are tokens (with colons, from old
// servers) or quoted strings, unknown parameters are ignored. A header without destination is accepted, as from old
// servers; the other three are required.
func ParseXMatrix(h string) (XMatrix, error) {
	var x XMatrix
	scheme, rest, ok := strings.Cut(h, " ")
	if !ok || !strings.EqualFold(scheme, "X-Matrix") {
		return x, errXMatrix
	}
	seen := make(map[string]bool, 4)
	for rest = skipBlank(rest); rest != ""; {
		name, value, after, err := parameter(rest)
		if err != nil {
			return XMatrix{}, err
		}
		if seen[name] {
			return XMatrix{}, fmt.Errorf("%w: %s twice", errXMatrix, name)
		}
		if len(seen) == maxParameters {
			return XMatrix{}, fmt.Errorf("%w: too many parameters", errXMatrix)
		}
		seen[name] = true
		if rest, ok = separated(after); !ok {
			return XMatrix{}, errXMatrix
		}
		if err := x.set(name, value); err != nil {
			return XMatrix{}, err
		}
	}
	if x.Origin == "" || x.KeyID == "" || x.Sig == "" {
		return XMatrix{}, fmt.Errorf("%w: origin, key and sig are required", errXMatrix)
	}
	return x, nil
}

func (x *XMatrix) set(name, value string) (err error) {
	switch name {
	case "origin":
		x.Origin, err = id.ParseServer(value)
	case "destination":
		x.Destination, err = id.ParseServer(value)
	case "key":
		x.KeyID, err = value, CheckKeyID(value)
	case "sig":
		x.Sig = value
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errXMatrix, err)
	}
	return nil
}

// skipBlank skips blanks and empty elements of the list, which RFC 9110, section 5.6.1, has recipients accept.
func skipBlank(s string) string { return strings.TrimLeft(s, " \t,") }

// separated skips the comma behind a parameter; what follows is another one, or nothing.
func separated(s string) (rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	return skipBlank(s), s == "" || s[0] == ','
}

// tokenChar says whether a value may hold c without quotes: tchar of RFC 9110, section 5.6.2, and the colon.
func tokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~:", c) >= 0
}

// parameter reads name=value, the value a token or a quoted string.
func parameter(s string) (name, value, rest string, err error) {
	name, rest, ok := strings.Cut(s, "=")
	name = strings.ToLower(strings.TrimRight(name, " \t"))
	if !ok || name == "" {
		return "", "", "", errXMatrix
	}
	for _, c := range []byte(name) {
		if c == ':' || !tokenChar(c) {
			return "", "", "", errXMatrix
		}
	}
	rest = strings.TrimLeft(rest, " \t")
	if !strings.HasPrefix(rest, `"`) {
		end := 0
		for end < len(rest) && tokenChar(rest[end]) {
			end++
		}
		if end == 0 {
			return "", "", "", errXMatrix
		}
		return name, rest[:end], rest[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '"':
			return name, b.String(), rest[i+1:], nil
		case c == '\\' && i+1 < len(rest):
			i++
			b.WriteByte(rest[i])
		case c < 0x20 && c != '\t' || c == 0x7f:
			return "", "", "", errXMatrix
		default:
			b.WriteByte(c)
		}
	}
	return "", "", "", errXMatrix
}

// String writes the header. Values are quoted: servers in the wild want that.
func (x XMatrix) String() string {
	return `X-Matrix origin="` + string(x.Origin) + `",destination="` + string(x.Destination) + `",key="` + x.KeyID + `",sig="` + x.Sig + `"`
}

// requestBytes is what is signed of a request: a canonical object of its parts. content is JSON, or nil.
func requestBytes(method, uri string, origin, destination id.Server, content []byte) ([]byte, error) {
	o := canonjson.Object{}
	if len(content) > 0 {
		// The content may be a form of JSON with numbers that have no canonical form: they stay as they are.
		canonical, err := canonjson.CanonicalEnvelope(content)
		if err != nil {
			return nil, fmt.Errorf("content: %w", err)
		}
		o = append(o, canonjson.Member{Key: "content", Raw: canonical})
	}
	text := func(key, value string) {
		o = append(o, canonjson.Member{Key: key, Raw: canonjson.AppendString(nil, value)})
	}
	if destination != "" {
		text("destination", string(destination))
	}
	text("method", method)
	text("origin", string(origin))
	text("uri", uri)
	return o.Bytes(), nil
}

// SignRequest returns the Authorization header of a request. uri is the escaped path with the query.
func SignRequest(method, uri string, origin, destination id.Server, content []byte, key *Key) (string, error) {
	b, err := requestBytes(method, uri, origin, destination, content)
	if err != nil {
		return "", fmt.Errorf("sign request: %w", err)
	}
	return XMatrix{Origin: origin, Destination: destination, KeyID: key.ID, Sig: Encode(key.Sign(b))}.String(), nil
}

// VerifyRequest verifies the header of a request against a key of its origin. The destination is part of what is signed
// even where an old server leaves it out of the header: the caller sets x.Destination to its own name then, and refuses
// a header that names another server.
func VerifyRequest(x XMatrix, method, uri string, content []byte, public ed25519.PublicKey) error {
	b, err := requestBytes(method, uri, x.Origin, x.Destination, content)
	if err != nil {
		return fmt.Errorf("verify request: %w", err)
	}
	sig, err := Decode(x.Sig)
	if err != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, b, sig) {
		return fmt.Errorf("request of %s: %w", x.Origin, ErrSignature)
	}
	return nil
}
