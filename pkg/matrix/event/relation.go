package event

import "github.com/tidwall/gjson"

// Types of relations that servers deal with (client-server API, "Relationship types").
const (
	Annotation = "m.annotation"
	Reference  = "m.reference"
	Replace    = "m.replace"
	Thread     = "m.thread"
)

// RelationType returns the type of the relation that an event's content has to another event, or "".
func RelationType(content []byte) string {
	relation := gjson.GetBytes(content, `m\.relates_to`)
	if relation.Get("event_id").Type != gjson.String {
		return ""
	}
	if typ := relation.Get("rel_type"); typ.Type == gjson.String {
		return typ.Str
	}
	return ""
}
