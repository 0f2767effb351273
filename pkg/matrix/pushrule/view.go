package pushrule

import (
	"strconv"
	"strings"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
)

// View is an event as conditions see it. It remembers what was looked up, for the rules of many users; it is not for use
// by several goroutines at once.
type View struct {
	event *event.PDU
	seen  []property
	steps steps
}

// steps is how much work the rules of a user may still take. Beyond it they do not match; the rules of the server do.
type steps int

// maxSteps is some milliseconds' worth: more than thousands of ordinary rules need for a long message.
const maxSteps steps = 1 << 21

// take uses up steps, and says whether there were enough.
func (s *steps) take(n int) bool {
	*s -= steps(n)
	return *s >= 0
}

// property is what stands at a path of the event.
type property struct {
	path  string
	raw   []byte // canonical JSON, nil if there is nothing
	lower string // the text in lower case, if it is a text
	text  bool
}

// NewView returns a view of an event.
func NewView(p *event.PDU) *View { return &View{event: p, seen: make([]property, 0, 16)} }

// at returns what stands at a path. The result is valid until the next call.
func (v *View) at(p path) *property {
	for i := range v.seen {
		if v.seen[i].path == p.text {
			v.steps.take(i/8 + 1)
			return &v.seen[i]
		}
	}
	if !v.steps.take(len(v.event.Content)/8 + len(v.seen)) {
		return &property{}
	}
	found := property{path: p.text, raw: v.raw(p.names)}
	if s, ok := canonjson.String(found.raw); ok {
		found.lower, found.text = strings.ToLower(s), true
	}
	v.seen = append(v.seen, found)
	return &v.seen[len(v.seen)-1]
}

func (v *View) raw(names []string) []byte {
	raw := v.top(names[0])
	for _, name := range names[1:] {
		var ok bool
		if raw, ok = canonjson.Find(raw, name); !ok {
			return nil
		}
	}
	return raw
}

// top returns a member of the event in the form that clients get.
func (v *View) top(name string) []byte {
	p := v.event
	text := func(s string) []byte { return canonjson.AppendString(nil, s) }
	switch name {
	case "content":
		return p.Content
	case "type":
		return text(p.Type)
	case "sender":
		return text(string(p.Sender))
	case "room_id":
		return text(string(p.RoomID))
	case "event_id":
		return text(string(p.ID))
	case "state_key":
		if p.StateKey != nil {
			return text(*p.StateKey)
		}
	case "redacts":
		if p.Redacts != "" {
			return text(string(p.Redacts))
		}
	case "origin_server_ts":
		return strconv.AppendInt(nil, p.OriginServerTS, 10)
	}
	return nil
}

// path is a property path (appendices, section "Dot-separated property paths").
type path struct {
	text  string
	names []string
}

// parsePath splits at dots. A backslash makes a dot or a backslash part of a name; before anything else it stands for
// itself.
func parsePath(s string) path {
	p := path{text: s}
	var name []byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			p.names = append(p.names, string(name))
			name = name[:0]
		case c == '\\' && i+1 < len(s) && (s[i+1] == '.' || s[i+1] == '\\'):
			i++
			name = append(name, s[i])
		default:
			name = append(name, c)
		}
	}
	p.names = append(p.names, string(name))
	return p
}
