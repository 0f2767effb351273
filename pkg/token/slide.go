package token

import (
	"strconv"
	"strings"

	"hanse/pkg/matrix/id"
)

// Slide is a position of a connection of sliding sync: which of the states of the connection counts, and up to where all was
// delivered besides.
type Slide struct {
	// Generation and N name the connection and its state.
	Generation, N int64
	Sync
}

// Encode writes the token for one user.
func (s *Slide) Encode(user id.User) string {
	return "c" + strconv.FormatInt(s.Generation, 36) + "." + strconv.FormatInt(s.N, 36) + "." + s.Sync.Encode(user)
}

// ParseSlide reads a token that Encode wrote for this user, or returns ErrInvalid.
func ParseSlide(text string, user id.User) (s Slide, err error) {
	names, ok := strings.CutPrefix(text, "c")
	generation, rest, _ := strings.Cut(names, ".")
	n, sync, more := strings.Cut(rest, ".")
	if !ok || !more {
		return Slide{}, ErrInvalid
	}
	if s.Generation, err = strconv.ParseInt(generation, 36, 64); err != nil {
		return Slide{}, ErrInvalid
	}
	if s.N, err = strconv.ParseInt(n, 36, 64); err != nil {
		return Slide{}, ErrInvalid
	}
	if s.Sync, err = ParseSync(sync, user); err != nil {
		return Slide{}, err
	}
	if s.Generation < 0 || s.N < 0 || s.Encode(user) != text {
		return Slide{}, ErrInvalid
	}
	return s, nil
}
