package appservice

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
)

// The matcher finds what trying every expression finds.
func TestMatcherFindsWhatAllExpressionsFind(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", "b", "_", "ab", "ba"}
	word := func(n int) (s string) {
		for range r.IntN(n) {
			s += letters[r.IntN(len(letters))]
		}
		return s
	}
	var services []*Service
	for i := range 200 {
		s := &Service{ID: fmt.Sprint(i), Sender: id.User("@" + word(4) + ":h")}
		for range r.IntN(3) {
			source := []string{"@%s.*", "@%s:h", "(?i)@%s.*", "@(?:%s|b).*", ".*%s", "@%s(a|b)+:h", "@%s"}[r.IntN(7)]
			s.Users = append(s.Users, namespaceOf(t, fmt.Sprintf(source, word(4))))
		}
		services = append(services, s)
	}
	m := NewMatcher(services)
	for range 5000 {
		u := id.User("@" + word(6) + ":h")
		var want []int
		for i, s := range services {
			if s.InterestedInUser(u) {
				want = append(want, i)
			}
		}
		if got := m.User(u); !slices.Equal(got, want) {
			t.Fatalf("%s: %v, want %v", u, got, want)
		}
	}
}

func namespaceOf(t testing.TB, source string) Namespace {
	t.Helper()
	p, err := regexp.Compile("^(?:" + source + ")")
	if err != nil {
		t.Fatal(err)
	}
	prefix, _ := regexp.MustCompile(source).LiteralPrefix()
	return Namespace{Pattern: p, Prefix: prefix}
}

func thousand(b *testing.B) *Matcher {
	b.Helper()
	services := make([]*Service, 1000)
	for i := range services {
		s := &Service{ID: fmt.Sprint(i), Sender: id.User(fmt.Sprintf("@bridge%d:example.org", i))}
		for _, kind := range []string{"user", "channel", "guest"} {
			s.Users = append(s.Users, namespaceOf(b, fmt.Sprintf(`@_bridge%d_%s_.*:example\.org`, i, kind)))
		}
		services[i] = s
	}
	return NewMatcher(services)
}

// A user among 1,000 services with three namespaces each.
func BenchmarkMatchUser(b *testing.B) {
	m := thousand(b)
	for _, c := range []struct {
		name string
		user id.User
		want int
	}{{"person", "@anna.schmidt:example.org", 0}, {"ghost", "@_bridge517_user_4711:example.org", 1}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(m.User(c.user)) != c.want {
					b.Fatal("another number of services")
				}
			}
		})
	}
}
