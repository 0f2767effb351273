package specapi

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// formats are the specification's own string formats (appendices "Common
// Identifier Format" and "Unpadded Base64"). They are checked as the grammar for
// historical identifiers allows, since servers must accept those.
var formats = []*jsonschema.Format{
	format("mx-user-id", withServer("@", true)),
	format("mx-room-alias", withServer("#", true)),
	format("mx-room-id", prefixed("!")),  // room version 12: no server part
	format("mx-event-id", prefixed("$")), // room version 3 on: no server part
	format("mx-server-name", serverName),
	format("mx-mxc-uri", mxcURI),
	format("mx-unpadded-base64", base64In(base64.RawStdEncoding)),
	format("mx-urlsafe-unpadded-base64", base64In(base64.RawURLEncoding)),
	// An operator's or user's URI is data: an empty one means "none".
	format("uri", absoluteURI),
}

func format(name string, check func(string) error) *jsonschema.Format {
	return &jsonschema.Format{Name: name, Validate: func(v any) error {
		s, ok := v.(string)
		if !ok {
			return nil // type is another keyword's matter
		}
		return check(s)
	}}
}

const maxIdentifier = 255 // bytes, sigil and server name included

func prefixed(sigil string) func(string) error {
	return func(s string) error {
		if !strings.HasPrefix(s, sigil) || len(s) == len(sigil) {
			return fmt.Errorf("does not start with %s", sigil)
		}
		if len(s) > maxIdentifier {
			return fmt.Errorf("longer than %d bytes", maxIdentifier)
		}
		return nil
	}
}

func withServer(sigil string, emptyLocal bool) func(string) error {
	head := prefixed(sigil)
	return func(s string) error {
		if err := head(s); err != nil {
			return err
		}
		local, server, ok := strings.Cut(s[len(sigil):], ":")
		if !ok || (local == "" && !emptyLocal) {
			return fmt.Errorf("has no server name")
		}
		return serverName(server)
	}
}

func serverName(s string) error {
	if s == "" {
		return fmt.Errorf("empty server name")
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(".-:[]", c) >= 0:
		default:
			return fmt.Errorf("character %q in server name", c)
		}
	}
	return nil
}

func mxcURI(s string) error {
	if s == "" {
		return nil // a profile's way to say "no avatar"
	}
	rest, ok := strings.CutPrefix(s, "mxc://")
	if !ok {
		return fmt.Errorf("does not start with mxc://")
	}
	server, media, ok := strings.Cut(rest, "/")
	if !ok || media == "" {
		return fmt.Errorf("has no media id")
	}
	return serverName(server)
}

func base64In(enc *base64.Encoding) func(string) error {
	return func(s string) error {
		_, err := enc.DecodeString(s)
		return err
	}
}

func absoluteURI(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if !u.IsAbs() {
		return fmt.Errorf("is not absolute")
	}
	return nil
}
