package token

import (
	"strconv"
	"strings"
)

// A place in a timeline lies just behind the log position of an event (which need not exist), or some places before that: there
// lies what fills a hole before the event. Its token is what prev_batch, start and end carry.

// EncodeTimeline writes a place in a room's timeline, so many places before that of a log position.
func EncodeTimeline(pos, before int64) string {
	text := "t" + strconv.FormatInt(pos, 10)
	if before == 0 {
		return text
	}
	return text + "." + strconv.FormatInt(before, 10)
}

// ParseTimeline reads a place in a room's timeline, or returns ErrInvalid.
func ParseTimeline(text string) (pos, before int64, err error) {
	digits, ok := strings.CutPrefix(text, "t")
	if !ok {
		return 0, 0, ErrInvalid
	}
	first, second, more := strings.Cut(digits, ".")
	if pos, err = strconv.ParseInt(first, 10, 64); err != nil {
		return 0, 0, ErrInvalid
	}
	if more {
		if before, err = strconv.ParseInt(second, 10, 64); err != nil || before <= 0 {
			return 0, 0, ErrInvalid
		}
	}
	if EncodeTimeline(pos, before) != text {
		return 0, 0, ErrInvalid
	}
	return pos, before, nil
}
