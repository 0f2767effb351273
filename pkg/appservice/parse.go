package appservice

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"

	"hanse/pkg/matrix/id"
)

const (
	// maxFile bounds a registration, in bytes.
	maxFile = 1 << 20
	// maxNamespaces bounds the entries of each kind of namespace, and the protocols.
	maxNamespaces = 1000
	// maxProgram bounds a compiled expression, in instructions: matching takes at most this for each byte of an id.
	maxProgram = 2000
	maxName    = 255 // bytes of an id, a token or a protocol
)

// registration is the file, and what the store keeps of it.
type registration struct {
	ID              string  `yaml:"id" json:"id"`
	URL             *string `yaml:"url" json:"url"`
	ASToken         string  `yaml:"as_token" json:"-"`
	ASTokenHash     string  `yaml:"-" json:"as_token_sha256"`
	HSToken         string  `yaml:"hs_token" json:"hs_token"`
	SenderLocalpart string  `yaml:"sender_localpart" json:"sender_localpart"`
	// ServerName is a member of our own: the name of the cluster that the service belongs to.
	ServerName id.Server `yaml:"server_name" json:"server_name"`
	Namespaces struct {
		Users   []namespace `yaml:"users" json:"users,omitempty"`
		Aliases []namespace `yaml:"aliases" json:"aliases,omitempty"`
		Rooms   []namespace `yaml:"rooms" json:"rooms,omitempty"`
	} `yaml:"namespaces" json:"namespaces"`
	RateLimited      *bool    `yaml:"rate_limited" json:"rate_limited,omitempty"`
	ReceiveEphemeral bool     `yaml:"receive_ephemeral" json:"receive_ephemeral,omitempty"`
	PushEphemeral    bool     `yaml:"de.sorunome.msc2409.push_ephemeral" json:"de.sorunome.msc2409.push_ephemeral,omitempty"`
	MSC3202          bool     `yaml:"org.matrix.msc3202" json:"org.matrix.msc3202,omitempty"`
	Protocols        []string `yaml:"protocols" json:"protocols,omitempty"`
}

type namespace struct {
	Exclusive bool   `yaml:"exclusive" json:"exclusive"`
	Regex     string `yaml:"regex" json:"regex"`
}

// Parse reads one registration. The names are those that the cluster serves; the first is meant where the registration names
// none. Members that are not known are ignored: other servers have some of their own.
func Parse(data []byte, names ...id.Server) (*Service, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	var r registration
	if err := decode(data, &r); err != nil {
		return nil, err
	}
	if r.ASToken == "" {
		return nil, errors.New("as_token is missing")
	}
	sum := sha256.Sum256([]byte(r.ASToken))
	r.ASTokenHash = hex.EncodeToString(sum[:])
	if err := checkToken("as_token", r.ASToken); err != nil {
		return nil, err
	}
	r.ASToken = ""
	if r.ServerName == "" && len(names) > 0 {
		r.ServerName = names[0]
	}
	if !slices.Contains(names, r.ServerName) {
		return nil, fmt.Errorf("server_name: %q is not a name of this cluster, which serves %q", r.ServerName, names)
	}
	return r.service()
}

// decode reads YAML. The parser panics on some texts that are none.
func decode(data []byte, r *registration) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("not a registration in YAML")
		}
	}()
	if err := yaml.Unmarshal(data, r); err != nil {
		// The error of the parser quotes the lines around the mistake, which may be those with the tokens.
		line, _, _ := strings.Cut(err.Error(), "\n")
		return fmt.Errorf("not a registration in YAML: %s", line)
	}
	return nil
}

// service checks the registration and compiles it.
func (r *registration) service() (*Service, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	s := &Service{
		ID: r.ID, HSToken: r.HSToken, Server: r.ServerName, Sender: id.NewUser(r.SenderLocalpart, r.ServerName),
		RateLimited: r.RateLimited == nil || *r.RateLimited, ReceiveEphemeral: r.ReceiveEphemeral || r.PushEphemeral,
		Encryption: r.MSC3202, Protocols: r.Protocols, reg: *r,
	}
	s.ToDevice = s.ReceiveEphemeral
	if n, err := hex.Decode(s.asToken[:], []byte(r.ASTokenHash)); err != nil || n != len(s.asToken) {
		return nil, errors.New("the hash of the as_token is not one")
	}
	if r.URL != nil {
		s.URL = strings.TrimRight(*r.URL, "/")
	}
	var err error
	for _, ns := range []struct {
		name string
		in   []namespace
		out  *[]Namespace
	}{{"users", r.Namespaces.Users, &s.Users}, {"aliases", r.Namespaces.Aliases, &s.Aliases}, {"rooms", r.Namespaces.Rooms, &s.Rooms}} {
		if *ns.out, err = compile(ns.in); err != nil {
			return nil, fmt.Errorf("namespaces.%s: %w", ns.name, err)
		}
	}
	return s, nil
}

func (r *registration) validate() error {
	var errs []error
	for _, m := range []struct{ name, value string }{{"id", r.ID}, {"hs_token", r.HSToken}, {"sender_localpart", r.SenderLocalpart}} {
		if m.value == "" {
			errs = append(errs, errors.New(m.name+" is missing"))
		}
	}
	if len(r.ID) > maxName || strings.ContainsFunc(r.ID, func(c rune) bool { return !unicode.IsPrint(c) }) {
		errs = append(errs, fmt.Errorf("id: must be printable, and have at most %d bytes", maxName))
	}
	errs = append(errs, checkToken("hs_token", r.HSToken))
	if r.SenderLocalpart != "" {
		// Upper case is allowed: Synapse takes it, and there are such bots.
		_, err := id.ParseUser(string(id.NewUser(r.SenderLocalpart, r.ServerName)))
		if strict := id.ParseStrictLocalpart(strings.ToLower(r.SenderLocalpart)); strict != nil || err != nil {
			errs = append(errs, fmt.Errorf("sender_localpart: %w", errors.Join(strict, err)))
		}
	}
	if r.URL != nil && *r.URL != "" {
		errs = append(errs, checkURL(*r.URL))
	}
	for _, n := range []int{len(r.Namespaces.Users), len(r.Namespaces.Aliases), len(r.Namespaces.Rooms), len(r.Protocols)} {
		if n > maxNamespaces {
			errs = append(errs, fmt.Errorf("more than %d namespaces of a kind, or protocols", maxNamespaces))
		}
	}
	for _, p := range r.Protocols {
		if p == "" || len(p) > maxName {
			errs = append(errs, fmt.Errorf("protocols: a name must have 1 to %d bytes", maxName))
		}
	}
	return errors.Join(errs...)
}

// checkToken refuses what cannot stand in an Authorization header. It does not quote the token.
func checkToken(name, token string) error {
	if len(token) > maxFile/16 || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return errors.New(name + " is not a token: it must be ASCII without spaces")
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("url is not an http or https URL")
	case u.User != nil:
		return errors.New("url: must not have a user name or password: they would be shown in logs")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("url: must not have a query or a fragment")
	}
	return nil
}

func compile(in []namespace) ([]Namespace, error) {
	out := make([]Namespace, 0, len(in))
	for i, n := range in {
		if n.Regex == "" {
			return nil, fmt.Errorf("entry %d: regex is missing", i+1)
		}
		tree, prog, err := program(n.Regex)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w (the syntax is RE2: no look-ahead, no back references)", i+1, err)
		}
		if len(prog.Inst) > maxProgram {
			return nil, fmt.Errorf("entry %d: the expression is too large: %d instructions, and %d are allowed", i+1, len(prog.Inst), maxProgram)
		}
		p, err := regexp.Compile(anchored(n.Regex))
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		out = append(out, Namespace{Exclusive: n.Exclusive, Pattern: p, Source: n.Regex, Prefix: literalPrefix(tree)})
	}
	return out, nil
}

func anchored(regex string) string { return "^(?:" + regex + ")" }

// program returns the tree and the program of an expression.
func program(regex string) (*syntax.Regexp, *syntax.Prog, error) {
	if _, err := syntax.Parse(regex, syntax.Perl); err != nil { // by itself: it must not close the group around it
		return nil, nil, err
	}
	tree, err := syntax.Parse(anchored(regex), syntax.Perl)
	if err != nil {
		return nil, nil, err
	}
	tree = tree.Simplify()
	prog, err := syntax.Compile(tree)
	return tree, prog, err
}

// literalPrefix returns a text that all matches begin with.
func literalPrefix(re *syntax.Regexp) string {
	prefix, _ := leading(re)
	return prefix
}

// leading returns the literal at the start of an expression, and whether the expression is nothing but that.
func leading(re *syntax.Regexp) (prefix string, whole bool) {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpBeginLine:
		return "", true // it takes nothing
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return "", false
		}
		return string(re.Rune), true
	case syntax.OpCapture:
		return leading(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			p, all := leading(sub)
			prefix += p
			if !all {
				return prefix, false
			}
		}
		return prefix, true
	default:
		return "", false
	}
}

// stored is the form in which the store keeps a registration.
func (s *Service) stored() ([]byte, error) { return json.Marshal(&s.reg) }

// parseStored reads what stored has written.
func parseStored(data []byte) (*Service, error) {
	var r registration
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	return r.service()
}
