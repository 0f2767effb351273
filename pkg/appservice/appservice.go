// Package appservice reads the registration files of application services and answers who one is and what it may act
// on (application service API, "Registration").
//
// Files are YAML, as for other servers. Regular expressions are matched from the start of an id, like Synapse does;
// they are RE2, so look-ahead and back references are refused when the file is read.
package appservice

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"hanse/pkg/matrix/id"
)

// Service is a registered application service.
type Service struct {
	ID  string
	URL string // empty: it wants no traffic
	// HSToken is what we show to the service.
	HSToken string
	// Sender is the service's own user.
	Sender           id.User
	RateLimited      bool
	ReceiveEphemeral bool
	Protocols        []string
	Users            []Namespace
	Aliases          []Namespace
	Rooms            []Namespace

	asToken [sha256.Size]byte
}

// Namespace is a set of ids that a service is interested in, or owns.
type Namespace struct {
	Exclusive bool
	Pattern   *regexp.Regexp
}

func matches(ns []Namespace, s string, exclusiveOnly bool) bool {
	for _, n := range ns {
		if (n.Exclusive || !exclusiveOnly) && n.Pattern.MatchString(s) {
			return true
		}
	}
	return false
}

// MayActAs reports whether the service may masquerade as a user.
func (s *Service) MayActAs(user id.User) bool {
	return user == s.Sender || matches(s.Users, string(user), false)
}

// InterestedInUser, InterestedInAlias and InterestedInRoom report whether an id is in one of the namespaces.
func (s *Service) InterestedInUser(user id.User) bool { return s.MayActAs(user) }

// InterestedInAlias reports whether the alias is in one of the namespaces.
func (s *Service) InterestedInAlias(alias id.Alias) bool {
	return matches(s.Aliases, string(alias), false)
}

// InterestedInRoom reports whether the room is in one of the namespaces.
func (s *Service) InterestedInRoom(room id.Room) bool { return matches(s.Rooms, string(room), false) }

// Registry is all application services of a cluster. A nil Registry has none.
type Registry struct{ services []*Service }

// All returns the services.
func (r *Registry) All() []*Service {
	if r == nil {
		return nil
	}
	return r.services
}

// ByToken returns the service that an access token belongs to, or nil. Its time does not depend on the token.
func (r *Registry) ByToken(token string) *Service {
	if r == nil {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	var found *Service
	for _, s := range r.services {
		if subtle.ConstantTimeCompare(sum[:], s.asToken[:]) == 1 {
			found = s
		}
	}
	return found
}

// OwnerOfUser returns the service that has the user id to itself, or nil: by an exclusive namespace or as its sender.
func (r *Registry) OwnerOfUser(user id.User) *Service {
	for _, s := range r.All() {
		if user == s.Sender || matches(s.Users, string(user), true) {
			return s
		}
	}
	return nil
}

// OwnerOfAlias returns the service that has the alias to itself, or nil.
func (r *Registry) OwnerOfAlias(alias id.Alias) *Service {
	for _, s := range r.All() {
		if matches(s.Aliases, string(alias), true) {
			return s
		}
	}
	return nil
}

// registration is the file.
type registration struct {
	ID              string  `yaml:"id"`
	URL             *string `yaml:"url"`
	ASToken         string  `yaml:"as_token"`
	HSToken         string  `yaml:"hs_token"`
	SenderLocalpart string  `yaml:"sender_localpart"`
	Namespaces      struct {
		Users   []namespace `yaml:"users"`
		Aliases []namespace `yaml:"aliases"`
		Rooms   []namespace `yaml:"rooms"`
	} `yaml:"namespaces"`
	RateLimited      *bool    `yaml:"rate_limited"`
	ReceiveEphemeral bool     `yaml:"receive_ephemeral"`
	Protocols        []string `yaml:"protocols"`
}

type namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// maxFile bounds a registration file, in bytes.
const maxFile = 1 << 20

// Load reads the files. Senders are users of server. Two services must not share an id or a token.
func Load(files []string, server id.Server) (*Registry, error) {
	r := new(Registry)
	ids := make(map[string]string)
	tokens := make(map[[sha256.Size]byte]string)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("application service: %w", err)
		}
		s, err := Parse(data, server)
		if err != nil {
			return nil, fmt.Errorf("application service %s: %w", file, err)
		}
		if other, ok := ids[s.ID]; ok {
			return nil, fmt.Errorf("application service %s: id %q is that of %s", file, s.ID, other)
		}
		if other, ok := tokens[s.asToken]; ok {
			return nil, fmt.Errorf("application service %s: as_token is that of %s", file, other)
		}
		ids[s.ID], tokens[s.asToken] = file, file
		r.services = append(r.services, s)
	}
	return r, nil
}

// Parse reads one registration. Unknown members are ignored: other servers have some of their own.
func Parse(data []byte, server id.Server) (*Service, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	var f registration
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	s := &Service{
		ID: f.ID, HSToken: f.HSToken, Sender: id.NewUser(f.SenderLocalpart, server), ReceiveEphemeral: f.ReceiveEphemeral,
		Protocols: f.Protocols, asToken: sha256.Sum256([]byte(f.ASToken)), RateLimited: f.RateLimited == nil || *f.RateLimited,
	}
	if f.URL != nil {
		s.URL = strings.TrimSuffix(*f.URL, "/")
	}
	var err error
	for _, ns := range []struct {
		name string
		in   []namespace
		out  *[]Namespace
	}{{"users", f.Namespaces.Users, &s.Users}, {"aliases", f.Namespaces.Aliases, &s.Aliases}, {"rooms", f.Namespaces.Rooms, &s.Rooms}} {
		if *ns.out, err = compile(ns.in); err != nil {
			return nil, fmt.Errorf("namespaces.%s: %w", ns.name, err)
		}
	}
	return s, nil
}

func (f *registration) validate() error {
	var errs []error
	for _, m := range []struct{ name, value string }{
		{"id", f.ID}, {"as_token", f.ASToken}, {"hs_token", f.HSToken}, {"sender_localpart", f.SenderLocalpart},
	} {
		if m.value == "" {
			errs = append(errs, errors.New(m.name+" is missing"))
		}
	}
	if f.SenderLocalpart != "" && strings.ContainsAny(f.SenderLocalpart, ":@ ") {
		errs = append(errs, errors.New("sender_localpart is not a localpart"))
	}
	if f.URL != nil && *f.URL != "" {
		if u, err := url.Parse(*f.URL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, errors.New("url is not an http or https URL"))
		}
	}
	return errors.Join(errs...)
}

func compile(in []namespace) ([]Namespace, error) {
	out := make([]Namespace, 0, len(in))
	for i, n := range in {
		if n.Regex == "" {
			return nil, fmt.Errorf("entry %d: regex is missing", i+1)
		}
		p, err := regexp.Compile("^(?:" + n.Regex + ")")
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		out = append(out, Namespace{Exclusive: n.Exclusive, Pattern: p})
	}
	return out, nil
}

// Of returns a registry of the given services.
func Of(services ...*Service) *Registry { return &Registry{services} }
