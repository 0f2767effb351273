package pushrule

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Module Push Notifications, section "Conditions", event_match.
func TestGlobWhole(t *testing.T) {
	for _, c := range []struct {
		pattern   string
		good, bad []string
	}{
		{"lunc?*", []string{"lunch plans", "lunch", "lunc☺"}, []string{" lunch", "lunc"}},
		{"", []string{""}, []string{"a"}},
		{"*", []string{"", "a"}, nil},
		{"a*a", []string{"aa", "aba"}, []string{"a", "ab"}},
		{"*a?", []string{"aab", "xaü"}, []string{"a", "abc"}},
		{"a*b*c", []string{"abc", "aXbYc", "abbcc"}, []string{"acb", "ab"}},
		{"M.Room.*", []string{"m.room.message"}, []string{"m_room.message"}},
		{"a[b]", []string{"a[b]"}, []string{"ab"}},
		{`a\*`, []string{`a\b`}, []string{"a*"}},
	} {
		for _, s := range c.good {
			if !newGlob(c.pattern).whole(s, plenty()) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.bad {
			if newGlob(c.pattern).whole(s, plenty()) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

// Section "Conditions", event_match on content.body.
func TestGlobWords(t *testing.T) {
	for _, c := range []struct {
		pattern   string
		good, bad []string
	}{
		{"ex*ple", []string{"an example event.", "exple", "an exciting triple-whammy"}, []string{"anexample", "examples", "ex"}},
		{"cake", []string{"cake", "a cake!", "cupcake cake", "ücakeü", "(cake)"}, []string{"cupcake", "cakes", "cake_", "1cake"}},
		{"c?ke", []string{"the cüke.", "coke"}, []string{"ccoke", "cke"}},
		{"foo*", []string{"foo", "a foobar"}, []string{"afoo"}},
		{"*foo", []string{"afoo x"}, []string{"foob"}},
		{"@bob", []string{"hi @bob", "hi@bob"}, []string{"@bobby"}},
		{"a a", []string{"a a a", "ba a a"}, []string{"ba ab"}},
	} {
		for _, s := range c.good {
			if !newGlob(c.pattern).words(s, plenty()) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.bad {
			if newGlob(c.pattern).words(s, plenty()) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

// A pattern matches what the regular expression that it stands for matches.
func TestGlobProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("ab ü*?.")), 0, 8, -1).Draw(t, "pattern")
		s := rapid.StringOfN(rapid.RuneFrom([]rune("ab üx.")), 0, 12, -1).Draw(t, "text")
		expr := strings.NewReplacer(`\*`, `(?s:.*)`, `\?`, `(?s:.)`).Replace(regexp.QuoteMeta(pattern))
		g := newGlob(pattern)
		if got, want := g.whole(s, plenty()), regexp.MustCompile(`^(?:`+expr+`)$`).MatchString(s); got != want {
			t.Fatalf("%q on all of %q: %v", pattern, s, got)
		}
		want, re := false, regexp.MustCompile(`^(?:`+expr+`)$`)
		for i := range len(s) + 1 {
			for j := i; j <= len(s); j++ {
				want = want || wordBoundary(s, i) && wordBoundary(s, j) && re.MatchString(s[i:j]) && strings.ToValidUTF8(s[i:j], "") == s[i:j]
			}
		}
		if got := g.words(s, plenty()); got != want {
			t.Fatalf("%q on words of %q: %v", pattern, s, got)
		}
	})
}

// Appendices, section "Dot-separated property paths".
func TestPaths(t *testing.T) {
	for in, want := range map[string]string{
		`content.body`:             "content|body",
		`content.m\.relates_to`:    "content|m.relates_to",
		`content.m\\foo`:           `content|m\foo`,
		`content.\x.a\`:            `content|\x|a\`,
		`content..a`:               "content||a",
		`content.m\.mentions.room`: "content|m.mentions|room",
		`content.a\\\.b`:           `content|a\.b`,
	} {
		if got := strings.Join(parsePath(in).names, "|"); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

// The most expensive pattern on the longest body.
func BenchmarkGlobWorst(b *testing.B) {
	body := strings.Repeat("a ", 32<<10)
	for name, pattern := range map[string]string{"question marks": strings.Repeat("?", maxQuestionMarks) + "b", "literal": strings.Repeat("a ", 500) + "b", "stars": strings.Repeat("a*", 500) + "b", "both": strings.Repeat("?*", 60) + "b"} {
		g := newGlob(pattern)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if g.words(body, plenty()) || g.whole(body, plenty()) {
					b.Fatal("matches")
				}
			}
		})
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("ex*ple", "An exciting triple-whammy")
	f.Add("??*ü", "\xff a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if !acceptable(pattern) || len(s) > 4096 {
			return
		}
		g := newGlob(pattern)
		if g.whole(s, plenty()) && !g.words(s, plenty()) {
			t.Fatalf("%q matches all of %q but no words of it", pattern, s)
		}
	})
}

func plenty() *steps {
	s := steps(1 << 40)
	return &s
}
