package id

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLength is the largest length of user, room, event and alias identifiers, in bytes, sigil and domain included.
const MaxLength = 255

// The identifiers. Their zero value means "none".
type (
	Room   string // !opaque:server, or from room version 12 on !hash
	User   string // @localpart:server
	Event  string // $opaque:server in room versions 1 and 2, $hash later
	Alias  string // #name:server
	Server string // host, host:port
	Device string
)

// Error says why a text is not the identifier that it should be.
type Error struct {
	Kind, Text, Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%q is not a valid %s: %s", clip(e.Text), e.Kind, e.Reason)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// NewUser composes a user id.
func NewUser(localpart string, server Server) User {
	return User("@" + localpart + ":" + string(server))
}

// NewAlias composes a room alias.
func NewAlias(name string, server Server) Alias { return Alias("#" + name + ":" + string(server)) }

// Localpart returns what stands between the sigil and the first colon.
func (u User) Localpart() string { l, _ := split(string(u)); return l }

// Server returns the user's homeserver.
func (u User) Server() Server { _, s := split(string(u)); return Server(s) }

// Localpart returns what stands between the sigil and the first colon.
func (a Alias) Localpart() string { l, _ := split(string(a)); return l }

// Server returns the server that knows the alias.
func (a Alias) Server() Server { _, s := split(string(a)); return Server(s) }

// Server returns the server in the room id; empty from room version 12 on.
func (r Room) Server() Server { _, s := split(string(r)); return Server(s) }

// Server returns the server in the event id; empty from room version 3 on.
func (e Event) Server() Server { _, s := split(string(e)); return Server(s) }

// split cuts the sigil off and splits at the first colon.
func split(s string) (local, server string) {
	if s == "" {
		return "", ""
	}
	local, server, _ = strings.Cut(s[1:], ":")
	return local, server
}

// ParseUser accepts any user id that may exist on the network (section "Historical User IDs"): the localpart may be empty
// and may hold anything but a colon and NUL.
func ParseUser(s string) (User, error) {
	if err := check("user id", s, '@'); err != nil {
		return "", err
	}
	_, server, ok := strings.Cut(s[1:], ":")
	if !ok {
		return "", &Error{"user id", s, "no server name"}
	}
	if err := server8(server); err != "" {
		return "", &Error{"user id", s, err}
	}
	return User(s), nil
}

// Compliant says whether the localpart holds only U+0021 to U+007E and is not empty. Other user ids live on in events;
// clients should not see them elsewhere (section "Historical User IDs").
func (u User) Compliant() bool {
	local := u.Localpart()
	for _, c := range []byte(local) {
		if c < 0x21 || c > 0x7e {
			return false
		}
	}
	return local != ""
}

// ParseStrictLocalpart accepts the localparts that a new user may have.
func ParseStrictLocalpart(s string) error {
	if s == "" {
		return &Error{"localpart", s, "empty"}
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '=', c == '-', c == '/', c == '+':
		default:
			return &Error{"localpart", s, "only a-z, 0-9, ., _, =, -, / and + are allowed"}
		}
	}
	if len(s) > MaxLength {
		return &Error{"localpart", s, "too long"}
	}
	return nil
}

// ParseRoom accepts room ids of all room versions.
func ParseRoom(s string) (Room, error) {
	if err := check("room id", s, '!'); err != nil {
		return "", err
	}
	local, server, ok := strings.Cut(s[1:], ":")
	if local == "" {
		return "", &Error{"room id", s, "empty"}
	}
	if ok {
		if err := server8(server); err != "" {
			return "", &Error{"room id", s, err}
		}
		return Room(s), nil
	}
	if !hash(local) {
		return "", &Error{"room id", s, "neither a server name nor a hash"}
	}
	return Room(s), nil
}

// ParseEvent accepts event ids of all room versions.
func ParseEvent(s string) (Event, error) {
	if err := check("event id", s, '$'); err != nil {
		return "", err
	}
	if len(s) == 1 {
		return "", &Error{"event id", s, "empty"}
	}
	if _, server, ok := strings.Cut(s[1:], ":"); ok {
		if err := server8(server); err != "" {
			return "", &Error{"event id", s, err}
		}
	}
	return Event(s), nil
}

// ParseAlias accepts room aliases.
func ParseAlias(s string) (Alias, error) {
	if err := check("room alias", s, '#'); err != nil {
		return "", err
	}
	_, server, ok := strings.Cut(s[1:], ":")
	if !ok {
		return "", &Error{"room alias", s, "no server name"}
	}
	if err := server8(server); err != "" {
		return "", &Error{"room alias", s, err}
	}
	return Alias(s), nil
}

// ParseDevice accepts what a client may call its device.
func ParseDevice(s string) (Device, error) {
	switch {
	case s == "":
		return "", &Error{"device id", s, "empty"}
	case len(s) > 512:
		return "", &Error{"device id", s, "too long"}
	case !utf8.ValidString(s), strings.IndexByte(s, 0) >= 0:
		return "", &Error{"device id", s, "characters"}
	}
	return Device(s), nil
}

// ParseServer accepts server names (section "Server Name"): DNS names, IPv4 and bracketed IPv6 addresses, with an
// optional port.
func ParseServer(s string) (Server, error) {
	if err := server8(s); err != "" {
		return "", &Error{"server name", s, err}
	}
	return Server(s), nil
}

// HostPort splits a server name; port is empty if it has none.
func (s Server) HostPort() (host, port string) {
	t := string(s)
	end := strings.IndexByte(t, ']') // of an IPv6 address
	if i := strings.LastIndexByte(t, ':'); i > end {
		return t[:i], t[i+1:]
	}
	return t, ""
}

func server8(s string) string {
	if s == "" {
		return "no server name"
	}
	host, port := Server(s).HostPort()
	if len(host) > MaxLength {
		return "server name too long"
	}
	if host != s {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || len(port) > 5 || port[0] == '+' || n == 0 && len(port) != 1 {
			return "port of the server name"
		}
	}
	if strings.HasPrefix(host, "[") {
		if !strings.HasSuffix(host, "]") {
			return "address of the server name"
		}
		a, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "address of the server name"
		}
		return ""
	}
	if host == "" {
		return "no server name"
	}
	for _, c := range []byte(host) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return "character in the server name"
		}
	}
	return ""
}

func check(kind, s string, sigil byte) error {
	switch {
	case s == "" || s[0] != sigil:
		return &Error{kind, s, "does not begin with " + string(sigil)}
	case len(s) > MaxLength:
		return &Error{kind, s, "longer than 255 bytes"}
	case !utf8.ValidString(s):
		return &Error{kind, s, "not UTF-8"}
	case strings.IndexByte(s, 0) >= 0:
		return &Error{kind, s, "NUL"}
	}
	return nil
}

// hash says whether s is the unpadded URL-safe base64 of 32 bytes.
func hash(s string) bool {
	if len(s) != 43 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
