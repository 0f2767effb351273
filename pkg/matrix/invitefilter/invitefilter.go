// Package invitefilter says what a user's account data wants done with an invite: client-server API, "Invite permission", and
// MSC4155, invite filtering.
package invitefilter

import (
	"encoding/json"
	"strings"

	"hanse/pkg/matrix/acl"
	"hanse/pkg/matrix/id"
)

// Types are the types of the account data that Parse reads. The others than the first are what clients use whose proposal was not
// merged yet.
var Types = []string{"m.invite_permission_config", "org.matrix.msc4155.invite_permission_config", "org.matrix.msc4380.invite_permission_config"}

// Action is what is to happen to an invite.
type Action int

// Actions. An invite that is ignored is made, and the user is not told of it. One that is blocked is refused.
const (
	Allow Action = iota
	Ignore
	Block
)

// Rules are those of a user. The zero value allows all invites.
type Rules struct {
	lists   []lists
	blocked bool // whatever no list decides
}

type lists struct {
	users, servers map[Action][]acl.Glob
}

// config is the content of the account data. Lists are nil if they are missing.
type config struct {
	Enabled        *bool    `json:"enabled"`
	DefaultAction  any      `json:"default_action"`
	AllowedUsers   []string `json:"allowed_users"`
	IgnoredUsers   []string `json:"ignored_users"`
	BlockedUsers   []string `json:"blocked_users"`
	AllowedServers []string `json:"allowed_servers"`
	IgnoredServers []string `json:"ignored_servers"`
	BlockedServers []string `json:"blocked_servers"`
}

// Parse reads the contents of the account data, by their types. A content that is not valid counts as empty.
func Parse(contents map[string][]byte) Rules {
	var r Rules
	for _, typ := range Types {
		var c config
		if json.Unmarshal(contents[typ], &c) != nil {
			continue
		}
		r.blocked = r.blocked || c.DefaultAction == "block"
		if c.Enabled != nil && !*c.Enabled {
			continue
		}
		r.lists = append(r.lists, lists{
			users:   map[Action][]acl.Glob{Allow: globs(c.AllowedUsers, false), Ignore: globs(c.IgnoredUsers, false), Block: globs(c.BlockedUsers, false)},
			servers: map[Action][]acl.Glob{Allow: globs(c.AllowedServers, true), Ignore: globs(c.IgnoredServers, true), Block: globs(c.BlockedServers, true)},
		})
	}
	return r
}

func globs(texts []string, lower bool) []acl.Glob {
	out := make([]acl.Glob, len(texts))
	for i, t := range texts {
		if lower {
			t = strings.ToLower(t)
		}
		out[i] = acl.Glob(t)
	}
	return out
}

// Of returns what is to happen to invites by a user.
func (r Rules) Of(inviter id.User) Action {
	server := strings.ToLower(acl.HostOf(inviter.Server()))
	for _, l := range r.lists {
		for _, by := range []struct {
			text  string
			globs map[Action][]acl.Glob
		}{{string(inviter), l.users}, {server, l.servers}} {
			for _, action := range []Action{Allow, Ignore, Block} {
				for _, g := range by.globs[action] {
					if g.Matches(by.text) {
						return action
					}
				}
			}
		}
	}
	if r.blocked {
		return Block
	}
	return Allow
}
