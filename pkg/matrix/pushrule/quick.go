package pushrule

import (
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
)

// NotifiesAll says whether an event notifies all members of its room who have only the default rules, but for its sender and for
// users that it names. mentionsRoom says that it mentions the room and that its sender may. It is what Evaluate returns for the
// rules of Defaults, without allocations: every event that is sent is asked.
func NotifiesAll(e *event.PDU, mentionsRoom bool) bool {
	content := gjson.ParseBytes(e.Content)
	switch {
	case is(content.Get("msgtype").Str, "m.notice"): // .m.rule.suppress_notices
		return false
	case is(e.Type, "m.room.member"): // .m.rule.member_event
		return false
	case mentionsRoom: // .m.rule.is_room_mention
		return true
	case is(e.Type, "m.room.tombstone") && e.StateKey != nil && *e.StateKey == "": // .m.rule.tombstone
		return true
	case content.Get(`m\.relates_to.rel_type`).Str == "m.replace": // .m.rule.suppress_edits
		return false
	}
	for _, typ := range []string{"m.room.message", "m.room.encrypted", "m.call.invite", pollStart, pollEnd} {
		if is(e.Type, typ) {
			return true
		}
	}
	return false
}

// MayMention says whether an event that names a user, or the room, as mentioned highlights them by the default rules: those for
// notices and member events come first.
func MayMention(e *event.PDU) bool {
	return !is(gjson.GetBytes(e.Content, "msgtype").Str, "m.notice") && !is(e.Type, "m.room.member")
}

// is compares as the condition event_match does. want is in lower case.
func is(text, want string) bool { return text == want || strings.ToLower(text) == want }
