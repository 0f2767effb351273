package appservice

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"

	"hanse/pkg/matrix/id"
)

// Service is a registered application service. It does not change.
type Service struct {
	ID string
	// URL is where it takes requests, without a slash at the end. Empty: it wants no traffic.
	URL string
	// HSToken is what we show to the service.
	HSToken string `json:"-"`
	// Server is the name of the cluster that the service belongs to.
	Server id.Server
	// Sender is the service's own user.
	Sender      id.User
	RateLimited bool
	// ReceiveEphemeral says that the service wants typing, receipts and presence, and ToDevice that it wants to-device messages
	// (MSC4203). As in Synapse, one setting is for both.
	ReceiveEphemeral bool
	ToDevice         bool
	// Encryption says that the service wants device lists, and the counts of one-time keys (MSC3202).
	Encryption bool
	// Protocols are the third-party networks that the service knows.
	Protocols []string
	Users     []Namespace
	Aliases   []Namespace
	Rooms     []Namespace
	// Origin says where the registration comes from: the name of a file, or "store".
	Origin string

	asToken [sha256.Size]byte // hash of the as_token
	reg     registration
}

// Namespace is a set of ids that a service is interested in, or owns.
type Namespace struct {
	Exclusive bool
	// Pattern matches at the start of an id.
	Pattern *regexp.Regexp
	// Source is the regular expression as it was written.
	Source string
	// Prefix is what every match begins with; "" if that is not known.
	Prefix string
}

// Format prints the id only: a Service holds a secret.
func (s *Service) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "application service "+s.ID) }

// LogValue logs the id only.
func (s *Service) LogValue() slog.Value { return slog.StringValue(s.ID) }

func matches(ns []Namespace, s string, exclusiveOnly bool) bool {
	for i := range ns {
		n := &ns[i]
		if (n.Exclusive || !exclusiveOnly) && strings.HasPrefix(s, n.Prefix) && n.Pattern.MatchString(s) {
			return true
		}
	}
	return false
}

// MayActAs reports whether the service may masquerade as a user: its sender, or a user of its server name in a namespace.
func (s *Service) MayActAs(user id.User) bool {
	return user == s.Sender || user.Server() == s.Server && matches(s.Users, string(user), false)
}

// OwnsUser and OwnsAlias report whether the service has an id to itself: by an exclusive namespace, or as its sender.
func (s *Service) OwnsUser(user id.User) bool {
	return user == s.Sender || user.Server() == s.Server && matches(s.Users, string(user), true)
}

func (s *Service) OwnsAlias(alias id.Alias) bool {
	return alias.Server() == s.Server && matches(s.Aliases, string(alias), true)
}

// InterestedInUser, InterestedInAlias and InterestedInRoom report whether an id, of any server, is in one of the namespaces.
func (s *Service) InterestedInUser(user id.User) bool {
	return user == s.Sender || matches(s.Users, string(user), false)
}

// InterestedInAlias reports whether the alias is in one of the namespaces.
func (s *Service) InterestedInAlias(alias id.Alias) bool {
	return matches(s.Aliases, string(alias), false)
}

// InterestedInRoom reports whether the room is in one of the namespaces.
func (s *Service) InterestedInRoom(room id.Room) bool { return matches(s.Rooms, string(room), false) }
