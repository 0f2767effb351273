package uia

import (
	"net/http"
	"strings"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// The identifier types (client-server API, "Identifier types").
const (
	IDUser       = "m.id.user"
	IDThirdParty = "m.id.thirdparty"
	IDPhone      = "m.id.phone"
)

// Identifier says whom a login is for.
type Identifier struct {
	Type    string `json:"type"`
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
	Country string `json:"country"`
	Phone   string `json:"phone"`
}

// UserID returns the user id; a localpart is one of server's.
func (i *Identifier) UserID(server id.Server) (id.User, error) {
	switch i.Type {
	case IDUser:
	case IDThirdParty:
		if i.Medium == "" || i.Address == "" {
			return "", merr.MissingParam("identifier.medium or identifier.address")
		}
		return "", merr.Forbidden("Invalid username or password") // nobody has third-party identifiers here
	case IDPhone:
		if i.Country == "" || i.Phone == "" {
			return "", merr.MissingParam("identifier.country or identifier.phone")
		}
		return "", merr.Forbidden("Invalid username or password")
	case "":
		return "", merr.MissingParam("identifier.type")
	default:
		return "", merr.New(http.StatusBadRequest, merr.CodeUnknown, "Unknown login identifier type")
	}
	if i.User == "" {
		return "", merr.MissingParam("identifier.user")
	}
	u, err := typedUser(i.User, server)
	if err != nil {
		return "", merr.Forbidden("Invalid username or password").WithCause(err)
	}
	return u, nil
}

// typedUser returns the user id that a person means who logs in at a server: by a localpart, or by an id, which may lack
// the @ or the port of the server's name and may have spaces around it.
func typedUser(text string, server id.Server) (id.User, error) {
	name := strings.TrimSpace(text)
	if !strings.HasPrefix(name, "@") && strings.Contains(name, ":") {
		name = "@" + name
	}
	if !strings.HasPrefix(name, "@") {
		return id.ParseUser(string(id.NewUser(name, server)))
	}
	u, err := id.ParseUser(name)
	if err != nil {
		return "", err
	}
	host, _ := server.HostPort()
	if typed := string(u.Server()); strings.EqualFold(typed, string(server)) || strings.EqualFold(typed, host) {
		return id.NewUser(u.Localpart(), server), nil
	}
	return u, nil
}

// Canonical is a user id with a localpart in lower case. Only ASCII letters have a case here: U+212A and U+0130,
// which Unicode folds into k and i, are no letters of a user id.
func Canonical(user id.User) id.User {
	return id.NewUser(LowerASCII(user.Localpart()), user.Server())
}

func LowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}
