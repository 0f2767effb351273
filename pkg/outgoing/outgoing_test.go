package outgoing

import (
	"testing"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

func TestLeaves(t *testing.T) {
	isLocal := func(s id.Server) bool { return s == "here.example" }
	member := func(user, membership, prev string) *logv1.Entry {
		return &logv1.Entry{Body: &logv1.Entry_Event{Event: &logv1.Event{StateKey: &user, Membership: membership, PrevMembership: prev}}}
	}
	overruled := member("@a:here.example", "join", "")
	overruled.GetEvent().Overruled = true
	for name, tc := range map[string]struct {
		entry *logv1.Entry
		want  bool
	}{
		"local event":                       {&logv1.Entry{Body: &logv1.Entry_Event{Event: &logv1.Event{Local: true}}}, true},
		"event of another server":           {&logv1.Entry{Body: &logv1.Entry_Event{Event: &logv1.Event{}}}, false},
		"join through another server":       {member("@a:here.example", "join", "invite"), true},
		"profile change":                    {member("@a:here.example", "join", "join"), false},
		"leave":                             {member("@a:here.example", "leave", "join"), false},
		"join of another server's user":     {member("@a:there.example", "join", ""), false},
		"join that the state overrules":     {overruled, false},
		"receipt":                           {&logv1.Entry{Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{Local: true, Type: "m.read"}}}, true},
		"private receipt":                   {&logv1.Entry{Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{Local: true, Type: "m.read.private"}}}, false},
		"receipt of another server":         {&logv1.Entry{Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{Type: "m.read"}}}, false},
		"devices of a local user":           {&logv1.Entry{Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{Local: true}}}, true},
		"devices of another server's user":  {&logv1.Entry{Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{}}}, false},
		"members of a partially joined one": {&logv1.Entry{Body: &logv1.Entry_Filled{Filled: &logv1.Filled{}}}, true},
		"unknown kind":                      {&logv1.Entry{}, false},
	} {
		if got := Leaves(tc.entry, isLocal); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
