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
	allow, deny []pattern
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

func patterns(raw json.RawMessage) []pattern {
	var entries []any
	if json.Unmarshal(raw, &entries) != nil {
		return nil
	}
	out := make([]pattern, 0, len(entries))
	for _, e := range entries {
		if s, ok := e.(string); ok {
			out = append(out, pattern(strings.ToLower(s)))
		}
	}
	return out
}

// Allows says whether the server may take part in the room. The port of its name does not count.
func (l *List) Allows(server id.Server) bool {
	if l == nil {
		return true
	}
	host := strings.ToLower(hostOf(server))
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
	for _, of := range [][]pattern{l.allow, l.deny} {
		for _, p := range of {
			n += int64(len(p)) + 16
		}
	}
	return n
}

func hostOf(server id.Server) string {
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

func matchAny(of []pattern, host string) bool {
	for _, p := range of {
		if p.matches(host) {
			return true
		}
	}
	return false
}

// pattern is a glob: * stands for any characters, ? for one.
type pattern string

// matches takes time proportional to the product of the lengths at worst: after a mismatch only the last * is tried
// anew.
func (p pattern) matches(s string) bool {
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
