package pgtest

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// quote escapes a value of a key=value connection string.
func quote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)
}

func sslmode(cfg *pgx.ConnConfig) string {
	if cfg.TLSConfig == nil {
		return "disable"
	}
	return "require"
}
