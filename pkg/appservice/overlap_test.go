package appservice

import (
	"testing"

	"pgregory.net/rapid"
)

func ns(t interface{ Fatal(...any) }, regex string) *Namespace {
	list, err := compile([]namespace{{Exclusive: true, Regex: regex}})
	if err != nil {
		t.Fatal(regex, err)
	}
	return &list[0]
}

// Application service API, "Registration": an exclusive namespace is one service's. Only ids of the server count.
func TestOverlap(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"@_irc_.*", "@_xmpp_.*", false},
		{"@_irc_.*", "@_irc_.*", true},
		{"@_irc_.*", "@_irc_bot_.*", true},
		{"@irc_.*", "@ircx_.*", false},
		{"@.*_a:a\\.example", "@b_.*:a\\.example", true},       // @b_a:a.example
		{"@.*_a:a\\.example$", "@.*_b:a\\.example$", false},    // two ends
		{"@[a-m].*", "@[n-z].*", false},                        //
		{"@[a-m].*", "@[m-z].*", true},                         //
		{"(?i)@irc_.*", "@IRC_x", true},                        // no id of a new user, but an id
		{"(?i)@irc_.*", "@xmpp_.*", false},                     //
		{"@irc", "@irc_.*", true},                              // matched from the start: @irc is @irc.*
		{"^@irc:a\\.example$", "@irc_.*", false},               //
		{"@irc_.*:a\\.example", "@irc_.*:other\\.org", false},  // no id of this server matches the second one
		{"@irc_.*:a.example", "@irc_.*:a\\.example", true},     //
		{"x^@irc", "@.*", false},                               // matches nothing
		{"@a*", "@a*b", true},                                  //
		{"@(ab)+:", "@a(ba)*b:", true},                         //
		{"@(aa)+:", "@a(aa)*:", false},                         // even and odd
		{"@a{3}:", "@a{2,4}:", true},                           //
		{"@a{3}:", "@a{4,5}:", false},                          //
		{"@\u017f:", "(?i)@s:", true},                          // U+017F folds into s
		{"@a(?:)b", "@ab$|@ac", false},                         // an id does not end there
		{"#x", "@x", false},                                    //
		{"@.*(?:b|c)d.*:a\\.example$", "@x.*cd:a\\.exa", true}, //
	} {
		for range 2 {
			if got := overlap(ns(t, tc.a), ns(t, tc.b), "@", "a.example"); got != tc.want {
				t.Errorf("%q and %q: %v", tc.a, tc.b, got)
			}
			tc.a, tc.b = tc.b, tc.a
		}
	}
}

// What both expressions match is an overlap, whatever they look like.
func TestOverlapFindsAll(t *testing.T) {
	ids := []string{""}
	for i := 0; i < len(ids) && len(ids[i]) < 5; i++ {
		ids = append(ids, ids[i]+"a", ids[i]+"b")
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := ns(t, "@"+randomRegex(t, 3)), ns(t, "@"+randomRegex(t, 3))
		both := ""
		for _, local := range ids {
			user := "@" + local + ":s"
			if a.Pattern.MatchString(user) && b.Pattern.MatchString(user) {
				both = user
				break
			}
		}
		if both != "" && !overlap(a, b, "@", "s") {
			t.Fatalf("%q and %q both match %s", a.Source, b.Source, both)
		}
	})
}

func randomRegex(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{"a", "b", ".", "[ab]", "[^a]", "(?i)A", ":", "a{2}", "$", "", "s"}).Draw(t, "leaf")
	}
	x := randomRegex(t, depth-1)
	switch rapid.IntRange(0, 5).Draw(t, "op") {
	case 0:
		return "(" + x + "|" + randomRegex(t, depth-1) + ")"
	case 1:
		return "(?:" + x + ")*"
	case 2:
		return "(" + x + ")?"
	case 3:
		return "(" + x + ")+"
	default:
		return x + randomRegex(t, depth-1)
	}
}
