package httpx

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"hanse/pkg/merr"
	"hanse/pkg/pg"
)

// PlainText refuses text that PostgreSQL cannot hold: NUL, what is not UTF-8, and keys that are too long for an index.
// Wherever in a request it was, it is the mistake of who sent it: 400 M_INVALID_PARAM.
func PlainText(next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if strings.IndexByte(r.URL.Path, 0) >= 0 || !utf8.ValidString(r.URL.Path) {
			return errText
		}
		err := next(w, r)
		if pg.Unstorable(err) {
			return errText.WithCause(err)
		}
		return err
	}
}

var errText = merr.InvalidParam("The request contains characters that are not allowed, or an identifier that is too long")
