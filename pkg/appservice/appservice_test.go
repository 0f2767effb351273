package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const irc = `
id: irc
url: http://127.0.0.1:9999/
as_token: as-secret
hs_token: hs-secret
sender_localpart: ircbot
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_.*:a\\.example"
    - exclusive: false
      regex: "@guest_.*"
  aliases:
    - exclusive: true
      regex: "#_irc_.*"
  rooms: []
`

func write(t *testing.T, texts ...string) []string {
	t.Helper()
	var files []string
	for i, text := range texts {
		f := filepath.Join(t.TempDir(), string(rune('a'+i))+".yaml")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// Application service API, "Registration" and "Namespaces".
func TestRegistry(t *testing.T) {
	r, err := Load(write(t, irc), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	s := r.ByToken("as-secret")
	if s == nil || s.ID != "irc" || s.Sender != "@ircbot:a.example" || s.RateLimited || s.URL != "http://127.0.0.1:9999" {
		t.Fatalf("service: %+v", s)
	}
	if r.ByToken("hs-secret") != nil || r.ByToken("") != nil {
		t.Error("a service was found by a token that is not its as_token")
	}
	if !s.MayActAs("@_irc_x:a.example") || !s.MayActAs(s.Sender) || !s.MayActAs("@guest_1:a.example") || s.MayActAs("@x_irc_:a.example") {
		t.Error("namespace of users")
	}
	if r.OwnerOfUser("@_irc_x:a.example") != s || r.OwnerOfUser(s.Sender) != s || r.OwnerOfUser("@guest_1:a.example") != nil {
		t.Error("exclusive namespace of users")
	}
	if r.OwnerOfAlias("#_irc_x:a.example") != s || r.OwnerOfAlias("#x:a.example") != nil {
		t.Error("exclusive namespace of aliases")
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		files []string
		want  string
	}{
		"not yaml":      {[]string{"a: ["}, "a.yaml"},
		"no token":      {[]string{strings.Replace(irc, "as_token: as-secret", "", 1)}, "as_token is missing"},
		"bad regex":     {[]string{strings.Replace(irc, "@guest_.*", "(?=x)", 1)}, "namespaces.users: entry 2"},
		"bad url":       {[]string{strings.Replace(irc, "http://127", "ftp://127", 1)}, "url is not"},
		"shared id":     {[]string{irc, strings.Replace(irc, "as-secret", "other", 1)}, `id "irc"`},
		"shared token":  {[]string{irc, strings.Replace(irc, "id: irc", "id: irc2", 1)}, "as_token is that of"},
		"bad localpart": {[]string{strings.Replace(irc, "ircbot", "'@ircbot:a.example'", 1)}, "sender_localpart"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(write(t, tc.files...), "a.example"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	if _, err := Load([]string{"/nonexistent"}, "a.example"); err == nil {
		t.Error("a missing file was accepted")
	}
}
