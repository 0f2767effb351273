package search

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// Field is where in an event a text stands.
type Field int16

// The fields that are searched (client-server API, "Search Categories"); their numbers are stored.
const (
	Body Field = iota + 1
	Name
	Topic
)

// Fields are the fields by the keys that clients know them by.
var Fields = map[string]Field{"content.body": Body, "content.name": Name, "content.topic": Topic}

// Types are the types of the events that have texts to search for.
var Types = []string{"m.room.message", "m.room.name", "m.room.topic"}

// searched says whether events of a type have a text to search for.
func searched(typ string) bool { return slices.Contains(Types, typ) }

// Text returns what of an event is searched, if anything is.
func Text(typ string, state bool, content []byte) (Field, string, bool) {
	str := func(path string) string {
		if v := gjson.GetBytes(content, path); v.Type == gjson.String {
			return v.Str
		}
		return ""
	}
	var field Field
	var text string
	switch {
	case typ == "m.room.message" && !state:
		field, text = Body, str("body")
	case typ == "m.room.name" && state:
		field, text = Name, str("name")
	case typ == "m.room.topic" && state:
		field, text = Topic, str("topic")
		for _, m := range gjson.GetBytes(content, `m\.topic.m\.text`).Array() {
			if mime := m.Get("mimetype"); (!mime.Exists() || mime.Str == "text/plain") && m.Get("body").Type == gjson.String {
				text += " " + m.Get("body").Str
			}
		}
	}
	return field, text, strings.TrimSpace(text) != ""
}
