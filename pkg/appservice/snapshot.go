package appservice

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"hanse/pkg/matrix/id"
)

// Snapshot is all application services of one moment. It does not change.
type Snapshot struct {
	version  uint64
	services []*Service // by id
	byID     map[string]*Service
	byToken  map[[sha256.Size]byte]*Service
}

// newSnapshot checks services against each other. Two must not share an id, a token or a sender, and none may have a namespace to
// itself into which one of another reaches.
func newSnapshot(version uint64, services []*Service) (*Snapshot, error) {
	s := &Snapshot{version: version, services: slices.Clone(services), byID: make(map[string]*Service, len(services)),
		byToken: make(map[[sha256.Size]byte]*Service, len(services))}
	slices.SortStableFunc(s.services, func(a, b *Service) int { return strings.Compare(a.ID, b.ID) })
	senders := make(map[id.User]*Service, len(services))
	for _, one := range s.services {
		if other := s.byID[one.ID]; other != nil {
			return nil, fmt.Errorf("application service %q is registered twice: in %s and in %s", one.ID, other.Origin, one.Origin)
		}
		if other := s.byToken[one.asToken]; other != nil {
			return nil, clash(one, other, "they have the same as_token")
		}
		if other := senders[one.Sender]; other != nil {
			return nil, clash(one, other, "they have the same sender, "+string(one.Sender))
		}
		s.byID[one.ID], s.byToken[one.asToken], senders[one.Sender] = one, one, one
	}
	shown := make(map[string]*Service, len(services))
	for _, one := range s.services {
		if other := shown[one.HSToken]; other != nil {
			return nil, clash(one, other, "they have the same hs_token")
		}
		shown[one.HSToken] = one
		// Who is shown the one token could act with the other.
		if other := s.byToken[sha256.Sum256([]byte(one.HSToken))]; other != nil && other != one {
			return nil, clash(one, other, "the hs_token of the former is the as_token of the latter")
		}
	}
	return s, s.checkExclusive()
}

func clash(a, b *Service, why string) error {
	return fmt.Errorf("application services %q (%s) and %q (%s) cannot be together: %s", a.ID, a.Origin, b.ID, b.Origin, why)
}

// claim is an exclusive namespace.
type claim struct {
	of *Service
	ns *Namespace
}

// checkExclusive looks for ids that two services would have to themselves.
func (s *Snapshot) checkExclusive() error {
	users, aliases := make(map[id.Server][]claim), make(map[id.Server][]claim)
	for _, one := range s.services {
		users[one.Server] = append(users[one.Server], claims(one, one.Users)...)
		aliases[one.Server] = append(aliases[one.Server], claims(one, one.Aliases)...)
	}
	for _, one := range s.services {
		for _, c := range users[one.Server] {
			if c.of != one && c.of.OwnsUser(one.Sender) {
				return clash(one, c.of, fmt.Sprintf("the sender %s of the former is in the exclusive namespace of the latter, %q", one.Sender, c.ns.Source))
			}
		}
	}
	for server, list := range users {
		if err := disjoint(list, "@", server); err != nil {
			return err
		}
	}
	for server, list := range aliases {
		if err := disjoint(list, "#", server); err != nil {
			return err
		}
	}
	return nil
}

func claims(s *Service, in []Namespace) []claim {
	var out []claim
	for i := range in {
		if in[i].Exclusive {
			out = append(out, claim{s, &in[i]})
		}
	}
	return out
}

// disjoint reports the first two claims of different services that overlap. Sorted by prefix, those that can overlap with a claim
// follow it directly, until one whose prefix does not begin with its own.
func disjoint(list []claim, sigil string, server id.Server) error {
	slices.SortStableFunc(list, func(a, b claim) int { return strings.Compare(a.ns.Prefix, b.ns.Prefix) })
	for i, a := range list {
		for _, b := range list[i+1:] {
			if !strings.HasPrefix(b.ns.Prefix, a.ns.Prefix) {
				break
			}
			if a.of != b.of && overlap(a.ns, b.ns, sigil, server) {
				return clash(a.of, b.of, fmt.Sprintf("their exclusive namespaces overlap: %q and %q", a.ns.Source, b.ns.Source))
			}
		}
	}
	return nil
}

// Version tells snapshots of one registry apart; it grows.
func (s *Snapshot) Version() uint64 { return s.version }

// All returns the services by id. Do not change the slice.
func (s *Snapshot) All() []*Service { return s.services }

// ByID returns the service with an id, or nil.
func (s *Snapshot) ByID(id string) *Service { return s.byID[id] }

// ByToken returns the service that an access token belongs to, or nil. What its time depends on is the hash of the token, which
// tells nothing of another token.
func (s *Snapshot) ByToken(token string) *Service {
	if len(s.byToken) == 0 {
		return nil
	}
	return s.byToken[sha256.Sum256([]byte(token))]
}

// OwnerOfUser returns the service that has the user id to itself, or nil: by an exclusive namespace or as its sender.
func (s *Snapshot) OwnerOfUser(user id.User) *Service {
	for _, one := range s.services {
		if one.OwnsUser(user) {
			return one
		}
	}
	return nil
}

// OwnerOfAlias returns the service that has the alias to itself, or nil.
func (s *Snapshot) OwnerOfAlias(alias id.Alias) *Service {
	for _, one := range s.services {
		if one.OwnsAlias(alias) {
			return one
		}
	}
	return nil
}
