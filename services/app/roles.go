package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role is a running part of the process.
type Role interface {
	// Run works until the context ends, and returns when nothing of it is left.
	Run(ctx context.Context) error
}

// drainer is a role that has something to hand over before it ends.
type drainer interface {
	Drain(ctx context.Context) error
}

// patientDrainer is a drainer with a time of its own.
type patientDrainer interface {
	drainer
	DrainTime() time.Duration
}

// need is a listener that a role's requests come from.
type need int

const (
	needClientAPI need = 1 << iota
	needFederationAPI
)

// roleSpec is a row of the role table.
type roleSpec struct {
	name  string
	needs need
	build func(ctx context.Context, b *builder) (Role, error)
}

// roles is the role table, in the order in which roles start; they stop in the reverse order.
var roles = []roleSpec{
	{"room", 0, buildRoom},
	{"fedout", 0, buildFedout},
	{"client", needClientAPI, buildClient},
	{"sync", needClientAPI, buildSync},
	{"media", needClientAPI | needFederationAPI, buildMedia},
	{"fedin", needFederationAPI, buildFedin},
	{"push", 0, buildPush},
	{"appservice", 0, buildAppservice},
}

// RoleNames lists all roles.
func RoleNames() []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.name
	}
	return names
}

// pick returns the rows of the named roles, in the order of the table; all of them if none is named.
func pick(names []string) ([]roleSpec, error) {
	if len(names) == 0 {
		return roles, nil
	}
	all := RoleNames()
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("there is no role %q; there are: %s", name, strings.Join(all, ", "))
		}
	}
	var picked []roleSpec
	for _, r := range roles {
		if slices.Contains(names, r.name) {
			picked = append(picked, r)
		}
	}
	return picked, nil
}
