package id_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/id"
)

// hash is a room id of version 12 without its sigil (room version 12, section "Room IDs").
const hash = "31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"

func parser[T ~string](parse func(string) (T, error)) func(string) (string, error) {
	return func(s string) (string, error) { t, err := parse(s); return string(t), err }
}

// Appendices, sections "Server Name" and "Common Identifier Format".
func TestParse(t *testing.T) {
	long := strings.Repeat("a", id.MaxLength)
	for _, c := range []struct {
		kind      string
		parse     func(string) (string, error)
		good, bad []string
	}{
		{"server", parser(id.ParseServer),
			[]string{"matrix.org", "matrix.org:8888", "1.2.3.4", "1.2.3.4:1234", "[1234:5678::abcd]", "[1234:5678::abcd]:5678", "localhost", "MATRIX.org", "[::ffff:1.2.3.4]", long},
			[]string{"", ":80", "a:", "a:b", "a:99999", "a:123456", "a:-1", "a:+1", "a:1:2", "a/b", "a b", "a_b", "ü.example", "[::1", "::1", "[1.2.3.4]", "[fe80::1%eth0]", "[]", "[::1]x", "a\x00", long + "a"}},
		{"user", parser(id.ParseUser),
			[]string{"@alice:example.com", "@:example.com", "@Alice!:example.com:8448", "@ü ☺\x01:example.com", "@a:[::1]:80"},
			[]string{"", "@", "alice:example.com", "@alice", "@alice:", "@a\x00:example.com", "@a\xff:example.com", "@a:b:c", "@" + long + ":b", "!a:b"}},
		{"room", parser(id.ParseRoom),
			[]string{"!abc:example.com", "!ü\n:example.com", "!" + hash},
			[]string{"", "!", "!abc", "!:example.com", "#abc:example.com", "!" + hash + "A", "!" + hash[1:], "!" + hash[:42] + "+", "!" + hash + ":", "!" + long}},
		{"event", parser(id.ParseEvent),
			[]string{"$opaque:example.com", "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"},
			[]string{"", "$", "opaque", "$a:", "$a:b/c", "$" + long, "$\x00"}},
		{"alias", parser(id.ParseAlias),
			[]string{"#room:example.com", "#:example.com", "#ü b:example.com:1"},
			[]string{"", "#", "#room", "#a\x00:example.com", "room:example.com", "#" + long + ":a"}},
		{"device", parser(id.ParseDevice), []string{"GHTYAJCE", "my phone ☎", strings.Repeat("a", 512)}, []string{"", "a\x00", "\xff", strings.Repeat("a", 513)}},
	} {
		for _, s := range c.good {
			if got, err := c.parse(s); err != nil || got != s {
				t.Errorf("%s %q: %q, %v", c.kind, s, got, err)
			}
		}
		for _, s := range c.bad {
			got, err := c.parse(s)
			var wrong *id.Error
			if !errors.As(err, &wrong) || got != "" {
				t.Errorf("%s %q: %q, %v; want an *id.Error", c.kind, s, got, err)
			}
		}
	}
}

// Appendices, section "User Identifiers".
func TestStrictLocalpart(t *testing.T) {
	for _, s := range []string{"alice", "a.b_c=d-e/f+g", "0"} {
		if err := id.ParseStrictLocalpart(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "Alice", "a b", "ü", "a:b", "@a", "a!", strings.Repeat("a", 256)} {
		if err := id.ParseStrictLocalpart(s); err == nil {
			t.Errorf("%q is no localpart for a new user", s)
		}
	}
}

// Appendices, section "Historical User IDs".
func TestCompliant(t *testing.T) {
	for u, want := range map[id.User]bool{"@Alice~!:b": true, "@:b": false, "@a b:b": false, "@ü:b": false, "@a\x7f:b": false} {
		if u.Compliant() != want {
			t.Errorf("%q compliant: %v", u, !want)
		}
	}
}

func TestParts(t *testing.T) {
	u := id.NewUser("alice", "example.com:8448")
	if u != "@alice:example.com:8448" || u.Localpart() != "alice" || u.Server() != "example.com:8448" {
		t.Errorf("%s: %s of %s", u, u.Localpart(), u.Server())
	}
	if a := id.NewAlias("room", "[::1]:80"); a.Localpart() != "room" || a.Server() != "[::1]:80" {
		t.Errorf("%s: %s of %s", a, a.Localpart(), a.Server())
	}
	if id.Room("!"+hash).Server() != "" || id.Room("!a:b").Server() != "b" || id.Event("$x").Server() != "" || id.Event("$x:b").Server() != "b" {
		t.Error("servers of rooms and events")
	}
	if id.User("").Localpart() != "" || id.User("").Server() != "" {
		t.Error("parts of nothing")
	}
	for s, want := range map[id.Server][2]string{"a": {"a", ""}, "a:1": {"a", "1"}, "[::1]": {"[::1]", ""}, "[::1]:2": {"[::1]", "2"}} {
		if host, port := s.HostPort(); [2]string{host, port} != want {
			t.Errorf("%s: %s, %s", s, host, port)
		}
	}
}

// Composed identifiers parse, and come apart into what they were made of.
func TestUserProperty(t *testing.T) {
	local := rapid.StringMatching(`[a-z0-9._=/+-]{1,60}`)
	server := rapid.StringMatching(`[a-zA-Z0-9.-]{1,60}(:[1-9][0-9]{0,3})?`)
	rapid.Check(t, func(t *rapid.T) {
		l, s := local.Draw(t, "localpart"), server.Draw(t, "server")
		name, err := id.ParseServer(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := id.ParseStrictLocalpart(l); err != nil {
			t.Fatal(err)
		}
		u, err := id.ParseUser(string(id.NewUser(l, name)))
		if err != nil || u.Localpart() != l || u.Server() != name || !u.Compliant() {
			t.Fatalf("%s: %s of %s, %v", u, u.Localpart(), u.Server(), err)
		}
	})
}

func FuzzIDs(f *testing.F) {
	for _, s := range []string{"@a:b", "!a:b", "!" + hash, "$a", "#a:[::1]:80", "b:1", "[1::2]", "@:b", "@a\x00:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := id.ParseUser(s); err == nil && (string(id.NewUser(u.Localpart(), u.Server())) != s || len(s) > id.MaxLength) {
			t.Fatalf("user %q: %q of %q", s, u.Localpart(), u.Server())
		}
		if a, err := id.ParseAlias(s); err == nil && string(id.NewAlias(a.Localpart(), a.Server())) != s {
			t.Fatalf("alias %q: %q of %q", s, a.Localpart(), a.Server())
		}
		if r, err := id.ParseRoom(s); err == nil && r.Server() != "" {
			if _, err := id.ParseServer(string(r.Server())); err != nil {
				t.Fatalf("room %q: %v", s, err)
			}
		}
		if _, err := id.ParseEvent(s); err == nil && (s[0] != '$' || len(s) > id.MaxLength) {
			t.Fatalf("event %q", s)
		}
		if v, err := id.ParseServer(s); err == nil {
			host, port := v.HostPort()
			if joined := host + ":" + port; host != s && joined != s {
				t.Fatalf("server %q: %q, %q", s, host, port)
			}
		}
	})
}
