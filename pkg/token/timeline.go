package token

import (
	"strconv"
	"strings"
)

// A timeline position lies just behind the event whose ord it is (the ord itself need not exist). Its token is what
// prev_batch, start and end carry.

// EncodeTimeline writes a position in a room's timeline.
func EncodeTimeline(ord int64) string { return "t" + strconv.FormatInt(ord, 10) }

// ParseTimeline reads a position in a room's timeline, or returns ErrInvalid.
func ParseTimeline(text string) (int64, error) {
	digits, ok := strings.CutPrefix(text, "t")
	if !ok {
		return 0, ErrInvalid
	}
	ord, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || EncodeTimeline(ord) != text {
		return 0, ErrInvalid
	}
	return ord, nil
}
