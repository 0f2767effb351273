package client

import (
	"errors"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/userdb"
)

// isNoRows reports whether a look-up, inside a transaction or not, found nothing.
func isNoRows(err error) bool {
	return errors.Is(err, pgx.ErrNoRows) || errors.Is(err, userdb.ErrNotFound)
}
