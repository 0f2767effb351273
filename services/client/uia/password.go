package uia

import (
	"context"
	"errors"

	"hanse/pkg/matrix/id"
	"hanse/pkg/password"
)

// limitAccount is the kind of rate limit, by account, that guesses at a password take from.
const limitAccount = "login_user"

// LimitPassword takes one guess at a user's password. All ways to write an account's name share a budget.
func (c *UIA) LimitPassword(ctx context.Context, user id.User) error {
	return c.Allow(ctx, limitAccount, string(Canonical(user)))
}

// CheckPassword takes as long for no hash as for a wrong password.
func (c *UIA) CheckPassword(ctx context.Context, pw, hash string) (bool, error) {
	ok, err := c.hasher.Check(ctx, pw, hash)
	if errors.Is(err, password.ErrTooLong) {
		return false, nil
	}
	return ok, err
}
