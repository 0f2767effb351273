package appservice

import (
	"cmp"
	"slices"
	"sort"
	"strings"
	"sync"

	"hanse/pkg/matrix/id"
)

// Matcher finds the services whose namespaces an id is in, among thousands: by the literal text that each regular expression begins
// with, and by the expressions of those that are left. It is immutable but for what it remembers, and safe for concurrent use.
type Matcher struct {
	services []*Service
	users    index
	aliases  index
	rooms    index
}

// NewMatcher makes a matcher of some services. What it returns are indexes of this slice.
func NewMatcher(services []*Service) *Matcher {
	m := &Matcher{services: services}
	for i, s := range services {
		m.users.add(rule{service: i, prefix: string(s.Sender), whole: true})
		for _, n := range s.Users {
			m.users.add(rule{service: i, prefix: n.Prefix, namespace: n})
		}
		for _, n := range s.Aliases {
			m.aliases.add(rule{service: i, prefix: n.Prefix, namespace: n})
		}
		for _, n := range s.Rooms {
			m.rooms.add(rule{service: i, prefix: n.Prefix, namespace: n})
		}
	}
	for _, x := range []*index{&m.users, &m.aliases, &m.rooms} {
		x.build()
	}
	return m
}

// Services are what the indexes mean.
func (m *Matcher) Services() []*Service { return m.services }

// User returns the services that have a user in a namespace, or as their sender, in ascending order.
func (m *Matcher) User(user id.User) []int { return m.users.find(string(user)) }

// Alias returns the services that have an alias in a namespace.
func (m *Matcher) Alias(alias id.Alias) []int { return m.aliases.find(string(alias)) }

// Room returns the services that have a room in a namespace.
func (m *Matcher) Room(room id.Room) []int { return m.rooms.find(string(room)) }

// HasAliases says whether any service has a namespace of aliases.
func (m *Matcher) HasAliases() bool { return len(m.aliases.rules) > 0 || len(m.aliases.open) > 0 }

// remembered bounds the ids whose result is kept because some expressions have to be tried on every id.
const remembered = 1 << 15

// index finds rules by an id.
type index struct {
	rules []rule
	// prefixes are those of the rules, in order; parent is the longest other prefix that a prefix begins with, -1 if there is none.
	prefixes []string
	parent   []int32
	of       [][]rule
	// open are rules that may match any id: it does not tell by its beginning.
	open []rule

	mu    sync.Mutex
	known map[string][]int // of open rules
}

// rule is a namespace of a service, or an id that is the whole of one.
type rule struct {
	service   int
	prefix    string
	whole     bool
	namespace Namespace
}

func (r *rule) matches(s string) bool {
	if r.whole {
		return s == r.prefix
	}
	return r.namespace.Pattern.MatchString(s)
}

func (x *index) add(r rule) {
	if len(r.prefix) < 2 { // the sigil alone tells nothing
		x.open = append(x.open, r)
	} else {
		x.rules = append(x.rules, r)
	}
}

func (x *index) build() {
	slices.SortStableFunc(x.rules, func(a, b rule) int { return cmp.Compare(a.prefix, b.prefix) })
	var within []int32 // prefixes that the present one begins with
	for i := 0; i < len(x.rules); {
		p, j := x.rules[i].prefix, i
		for j < len(x.rules) && x.rules[j].prefix == p {
			j++
		}
		for len(within) > 0 && !strings.HasPrefix(p, x.prefixes[within[len(within)-1]]) {
			within = within[:len(within)-1]
		}
		parent := int32(-1)
		if len(within) > 0 {
			parent = within[len(within)-1]
		}
		within = append(within, int32(len(x.prefixes)))
		x.prefixes, x.parent, x.of = append(x.prefixes, p), append(x.parent, parent), append(x.of, x.rules[i:j])
		i = j
	}
	if len(x.open) > 0 {
		x.known = make(map[string][]int)
	}
}

// find returns the services of which a rule matches.
func (x *index) find(s string) []int {
	var found []int
	// The last prefix that is not behind s, or one that it begins with, is the longest that s begins with: what lies between two
	// strings that begin alike begins like them.
	at := sort.Search(len(x.prefixes), func(i int) bool { return x.prefixes[i] > s }) - 1
	for at >= 0 && !strings.HasPrefix(s, x.prefixes[at]) {
		at = int(x.parent[at])
	}
	for ; at >= 0; at = int(x.parent[at]) {
		for i := range x.of[at] {
			if r := &x.of[at][i]; r.matches(s) {
				found = append(found, r.service)
			}
		}
	}
	if len(x.open) > 0 {
		found = append(found, x.findOpen(s)...)
	}
	if len(found) > 1 {
		slices.Sort(found)
		found = slices.Compact(found)
	}
	return found
}

func (x *index) findOpen(s string) []int {
	x.mu.Lock()
	defer x.mu.Unlock()
	found, ok := x.known[s]
	if ok {
		return found
	}
	for i := range x.open {
		if r := &x.open[i]; r.matches(s) {
			found = append(found, r.service)
		}
	}
	if len(x.known) >= remembered {
		clear(x.known)
	}
	x.known[s] = found
	return found
}
