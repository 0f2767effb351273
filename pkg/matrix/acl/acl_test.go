package acl

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/id"
)

// Client-server API, "Server Access Control Lists (ACLs) for rooms".
func TestAllows(t *testing.T) {
	cases := []struct {
		name, content string
		server        id.Server
		want          bool
	}{
		{"everybody", `{"allow":["*"]}`, "a.example", true},
		{"nobody", `{}`, "a.example", false},
		{"allow is of a wrong type", `{"allow":"*"}`, "a.example", false},
		{"not an object", `[]`, "a.example", false},
		{"denied", `{"allow":["*"],"deny":["a.example"]}`, "a.example", false},
		{"denied with a port", `{"allow":["*"],"deny":["a.example"]}`, "a.example:8448", false},
		{"denied in capitals", `{"allow":["*"],"deny":["A.EXAMPLE"]}`, "a.Example", false},
		{"another one is denied", `{"allow":["*"],"deny":["a.example"]}`, "b.example", true},
		{"subdomains are denied", `{"allow":["*"],"deny":["*.evil.example"]}`, "x.y.evil.example", false},
		{"the domain itself is not", `{"allow":["*"],"deny":["*.evil.example"]}`, "evil.example", true},
		{"one character", `{"allow":["a?.example"]}`, "ab.example", true},
		{"one character, none there", `{"allow":["a?.example"]}`, "a.example", false},
		{"the dot is a dot", `{"allow":["a.example"]}`, "axexample", false},
		{"IPv4 literal allowed by default", `{"allow":["*"]}`, "192.0.2.1:80", true},
		{"IPv4 literal denied", `{"allow":["*"],"allow_ip_literals":false}`, "192.0.2.1", false},
		{"IPv6 literal denied", `{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]:8448", false},
		{"a name is no literal", `{"allow":["*"],"allow_ip_literals":false}`, "1.example", true},
		{"wrong type of allow_ip_literals", `{"allow":["*"],"allow_ip_literals":"no"}`, "192.0.2.1", true},
		{"null", `{"allow":["*"],"allow_ip_literals":null}`, "192.0.2.1", true},
		{"entries that are not strings", `{"allow":["*",1,null],"deny":[{}]}`, "a.example", true},
	}
	for _, c := range cases {
		if got := Parse([]byte(c.content)).Allows(c.server); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if !(*List)(nil).Allows("a.example") {
		t.Error("a room without a list allows everybody")
	}
}

// The matcher agrees with a regular expression.
func TestPatternIsAGlob(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab.*?]{0,12}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab.]{0,12}`).Draw(t, "text")
		re := strings.NewReplacer(".", `\.`, "*", ".*", "?", ".").Replace(p)
		if got, want := Glob(p).Matches(s), regexp.MustCompile("^"+re+"$").MatchString(s); got != want {
			t.Fatalf("%q matches %q: %v", p, s, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"allow":["*"],"deny":["*.x"],"allow_ip_literals":false}`), "a.x")
	f.Add([]byte(`{"allow":["*a*a*a*a*b"]}`), strings.Repeat("a", 200))
	f.Fuzz(func(t *testing.T, content []byte, server string) {
		l := Parse(content)
		l.Allows(id.Server(server))
		if l.Bytes() < 0 {
			t.Fatal("negative size")
		}
	})
}
