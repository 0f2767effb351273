package appservice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
)

const irc = `
id: irc
url: http://127.0.0.1:9999/
as_token: as-secret
hs_token: hs-secret
sender_localpart: ircbot
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
protocols: [irc]
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

func parse(t *testing.T, text string, names ...id.Server) *Service {
	t.Helper()
	if names == nil {
		names = []id.Server{"a.example", "b.example"}
	}
	s, err := Parse([]byte(text), names...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// with replaces parts of the registration, each of which must be there.
func with(t *testing.T, oldNew ...string) string {
	t.Helper()
	text := irc
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("there is no %q", oldNew[i])
		}
		text = strings.ReplaceAll(text, oldNew[i], oldNew[i+1])
	}
	return text
}

// Application service API, "Registration" and "Namespaces".
func TestRegistration(t *testing.T) {
	s := parse(t, irc)
	if s.ID != "irc" || s.Sender != "@ircbot:a.example" || s.Server != "a.example" || s.RateLimited || s.URL != "http://127.0.0.1:9999" ||
		!s.ReceiveEphemeral || !s.ToDevice || !s.Encryption || len(s.Protocols) != 1 {
		t.Fatalf("service: %q", fmt.Sprint(s.reg))
	}
	r := Of(s)
	if r.ByToken("as-secret") != s || r.ByToken("hs-secret") != nil || r.ByToken("") != nil {
		t.Error("a service is found by its as_token and nothing else")
	}
	for user, may := range map[id.User]bool{"@_irc_x:a.example": true, s.Sender: true, "@guest_1:a.example": true, "@x_irc_:a.example": false,
		"@guest_1:b.example": false, "@_irc_x:b.example": false} {
		if s.MayActAs(user) != may {
			t.Errorf("may act as %s: %v", user, !may)
		}
	}
	if r.OwnerOfUser("@_irc_x:a.example") != s || r.OwnerOfUser(s.Sender) != s || r.OwnerOfUser("@guest_1:a.example") != nil {
		t.Error("exclusive namespace of users")
	}
	if r.OwnerOfAlias("#_irc_x:a.example") != s || r.OwnerOfAlias("#x:a.example") != nil || r.OwnerOfAlias("#_irc_x:b.example") != nil {
		t.Error("exclusive namespace of aliases")
	}
	var nobody *Registry
	if nobody.ByToken("as-secret") != nil || nobody.OwnerOfUser(s.Sender) != nil || nobody.OwnerOfAlias("#_irc_x:a.example") != nil || nobody.All() != nil {
		t.Error("a registry that is not there has a service")
	}
}

// A registration belongs to the name that it gives, or to the first one.
func TestServerName(t *testing.T) {
	s := parse(t, irc+"server_name: b.example\n")
	if s.Server != "b.example" || s.Sender != "@ircbot:b.example" || !s.MayActAs("@guest_1:b.example") || s.MayActAs("@guest_1:a.example") {
		t.Errorf("service of b.example: %+v", s.reg)
	}
	if _, err := Parse([]byte(irc+"server_name: c.example\n"), "a.example", "b.example"); err == nil || !strings.Contains(err.Error(), `"c.example" is not a name of this cluster`) {
		t.Errorf("a name of somebody else: %v", err)
	}
}

// Each thing that can be wrong with one registration.
func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"not yaml":             {"a: [", "not a registration"},
		"a list":               {"[1]", "not a registration"},
		"empty":                {"", "as_token is missing"},
		"no as_token":          {with(t, "as_token: as-secret", ""), "as_token is missing"},
		"no hs_token":          {with(t, "hs_token: hs-secret", ""), "hs_token is missing"},
		"no id":                {with(t, "id: irc", ""), "id is missing"},
		"no sender":            {with(t, "sender_localpart: ircbot", ""), "sender_localpart is missing"},
		"token with space":     {with(t, "as-secret", "as secret"), "as_token is not a token"},
		"token with newline":   {with(t, "hs-secret", `"hs\r\nX-Y: z"`), "hs_token is not a token"},
		"id with newline":      {with(t, "id: irc", `id: "i\nrc"`), "id: must be printable"},
		"id too long":          {with(t, "id: irc", "id: "+strings.Repeat("i", 256)), "id: must be printable"},
		"look-ahead":           {with(t, "@guest_.*", "(?=x)"), "namespaces.users: entry 2"},
		"open group":           {with(t, "#_irc_.*", "(#"), "namespaces.aliases: entry 1"},
		"closes our group":     {with(t, "#_irc_.*", "#x)|(?:#y"), "namespaces.aliases: entry 1"},
		"no regex":             {with(t, `regex: "#_irc_.*"`, ""), "namespaces.aliases: entry 1: regex is missing"},
		"slow expression":      {with(t, "@guest_.*", "@(((abc){10}){10}){10}"), "too large"},
		"impossible count":     {with(t, "@guest_.*", "@a{1001}"), "invalid repeat count"},
		"other scheme":         {with(t, "http://127", "ftp://127"), "url is not"},
		"no host":              {with(t, "http://127.0.0.1:9999/", "http:///x"), "url is not"},
		"password in url":      {with(t, "http://127", "http://user:pa55@127"), "must not have a user name or password"},
		"query in url":         {with(t, "9999/", "9999/?a=b"), "must not have a query"},
		"user id as localpart": {with(t, "ircbot", "'@ircbot:a.example'"), "sender_localpart"},
		"localpart too long":   {with(t, "ircbot", strings.Repeat("x", 250)), "sender_localpart"},
		"localpart with space": {with(t, "ircbot", "irc bot"), "sender_localpart"},
		"protocol too long":    {with(t, "[irc]", "["+strings.Repeat("x", 256)+"]"), "protocols"},
		"many protocols":       {with(t, "[irc]", "["+strings.Repeat("x,", 1001)+"]"), "more than 1000"},
		"wrong type":           {with(t, "rate_limited: false", "rate_limited: [a]"), "not a registration"},
		"too large":            {irc + "# " + strings.Repeat("x", maxFile), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text), "a.example")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			for _, secret := range []string{"as-secret", "as secret", "hs-secret", "X-Y", "pa55"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error quotes a secret: %v", err)
				}
			}
		})
	}
}

// Whoever prints or logs a service prints no secret.
func TestServiceHidesItsTokens(t *testing.T) {
	s := parse(t, irc)
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "service", s)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "service", s)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&out, verb, s)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(raw)
	if strings.Contains(out.String(), "secret") {
		t.Error(out.String())
	}
}

// What every match begins with.
func TestLiteralPrefix(t *testing.T) {
	for regex, want := range map[string]string{
		"@_irc_.*": "@_irc_", "^@_irc_.*$": "@_irc_", "(@_irc_).*": "@_irc_", "^(@_irc_(a|b))": "@_irc_", "@a|@b": "@", "(?i)@irc": "",
		".*": "", "@irc?": "@ir", "@": "@", "@(?:x)?": "@", "@_irc_bot:a\\.example": "@_irc_bot:a.example", "": "",
	} {
		tree, _, err := program(regex)
		if err != nil {
			t.Fatal(err)
		}
		if got := literalPrefix(tree); got != want {
			t.Errorf("%q: %q, want %q", regex, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/registrations/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no corpus", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(irc))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data, "a.example", "b.example")
		if err != nil {
			return
		}
		if s.ID == "" || s.HSToken == "" || s.Server != "a.example" && s.Server != "b.example" || !s.MayActAs(s.Sender) {
			t.Fatalf("accepted: %q", data)
		}
		if _, err := id.ParseUser(string(s.Sender)); err != nil {
			t.Fatal(err)
		}
		raw, err := s.stored()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseStored(raw)
		if err != nil {
			t.Fatalf("what is stored cannot be read: %v: %s", err, raw)
		}
		if again.asToken != s.asToken || again.Sender != s.Sender || again.HSToken != s.HSToken || len(again.Users) != len(s.Users) {
			t.Fatalf("stored another service: %s", raw)
		}
		for _, one := range []*Service{s, again} {
			one.InterestedInUser("@_irc_x:a.example")
			one.InterestedInAlias("#_irc_x:a.example")
			one.InterestedInRoom("!x:a.example")
		}
	})
}
