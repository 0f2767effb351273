package account

import (
	"strconv"
	"strings"
)

// Mark is what a message's body says about it.
type Mark struct {
	Run string // tells this run's messages from an earlier run's; no spaces
	Key Key
	At  int64 // when it was due to be sent, in nanoseconds of the sender's clock
}

const markPrefix = "lg1 "

// String is the body of the message.
func (m Mark) String() string {
	b := make([]byte, 0, 64)
	b = append(b, markPrefix...)
	b = append(b, m.Run...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, m.Key.Seq, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, m.At, 10)
	b = append(b, ' ')
	b = append(b, m.Key.Sender...)
	return string(b)
}

// ParseMark reads a body back. It answers false for any other message.
func ParseMark(body string) (Mark, bool) {
	rest, ok := strings.CutPrefix(body, markPrefix)
	if !ok {
		return Mark{}, false
	}
	f := strings.SplitN(rest, " ", 4)
	if len(f) != 4 || f[0] == "" || f[3] == "" {
		return Mark{}, false
	}
	seq, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return Mark{}, false
	}
	at, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return Mark{}, false
	}
	return Mark{Run: f[0], Key: Key{Sender: f[3], Seq: seq}, At: at}, true
}
