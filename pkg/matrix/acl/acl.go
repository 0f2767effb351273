// Package acl matches servers against the access control list of a room (client-server API, section "Server Access
// Control Lists (ACLs) for rooms").
package acl

import (
	"encoding/json"
	"net/netip"
	"strings"

	"hanse/pkg/matrix/id"
)

// EventType is the type of the state event that holds the list; its state key is empty.
const EventType = "m.room.server_acl"

// List is the list of a room. It is immutable. A nil *List, for rooms without one, allows everybody.
type List struct {
	allow, deny []Glob
	literals    bool
}

// Parse reads the content of an m.room.server_acl event. Members that are missing or of a wrong type count as their
// defaults, entries that are not strings are left out: a list that nobody can read denies everybody, as the section
// has it for an empty one.
func Parse(content []byte) *List {
	var raw map[string]json.RawMessage
	l := &List{literals: true}
	if json.Unmarshal(content, &raw) != nil {
		return l
	}
	var literals bool
	if json.Unmarshal(raw["allow_ip_literals"], &literals) == nil && string(raw["allow_ip_literals"]) != "null" {
		l.literals = literals
	}
	l.allow, l.deny = patterns(raw["allow"]), patterns(raw["deny"])
	return l
}

func patterns(raw json.RawMessage) []Glob {
	var entries []any
	if json.Unmarshal(raw, &entries) != nil {
		return nil
	}
	out := make([]Glob, 0, len(entries))
	for _, e := range entries {
		if s, ok := e.(string); ok {
			out = append(out, Glob(strings.ToLower(s)))
		}
	}
	return out
}

// Allows says whether the server may take part in the room. The port of its name does not count.
func (l *List) Allows(server id.Server) bool {
	if l == nil {
		return true
	}
	host := strings.ToLower(HostOf(server))
	if !l.literals && isLiteral(host) {
		return false
	}
	return !matchAny(l.deny, host) && matchAny(l.allow, host)
}

// Bytes is about what the list takes in memory.
func (l *List) Bytes() int64 {
	if l == nil {
		return 0
	}
	n := int64(64)
	for _, of := range [][]Glob{l.allow, l.deny} {
		for _, p := range of {
			n += int64(len(p)) + 16
		}
	}
	return n
}

// HostOf returns a server name without its port.
func HostOf(server id.Server) string {
	s := string(server)
	if end := strings.IndexByte(s, ']'); strings.HasPrefix(s, "[") && end > 0 {
		return s[:end+1]
	}
	host, _, _ := strings.Cut(s, ":")
	return host
}

func isLiteral(host string) bool {
	if strings.HasPrefix(host, "[") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is4()
}

func matchAny(of []Glob, host string) bool {
	for _, p := range of {
		if p.Matches(host) {
			return true
		}
	}
	return false
}

// Glob is a pattern: * stands for any characters, ? for one.
type Glob string

// Matches says whether the whole of s is like the pattern. It takes time proportional to the product of the lengths at worst: after a mismatch only the last * is tried
// anew.
func (p Glob) Matches(s string) bool {
	at, star, from := 0, -1, 0
	for i := 0; i < len(s); {
		switch {
		case at < len(p) && p[at] == '*':
			star, from = at, i
			at++
		case at < len(p) && (p[at] == '?' || p[at] == s[i]):
			at++
			i++
		case star >= 0:
			from++
			at, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(string(p[at:]), "*") == ""
}
